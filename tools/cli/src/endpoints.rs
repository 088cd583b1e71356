//! Which nodes are asked.

use clap::Args;

/// The option `--endpoint` of everything that asks running nodes.
#[derive(Args)]
pub(crate) struct Endpoints {
    /// Admin endpoints of the nodes (host:port).
    #[arg(
        long,
        value_delimiter = ',',
        default_values = ["127.0.0.1:9001", "127.0.0.1:9002", "127.0.0.1:9003"]
    )]
    pub(crate) endpoint: Vec<String>,
}
