//! A data directory that was moved, or whose node has another address.

use std::path::Path;

use engine::config::Config;
use engine::io::identity::{Record, check_stopped, settle};

use super::RepairError;

pub(super) fn moved(config: &Config) -> Result<String, RepairError> {
    check_stopped(config)?;
    let path = Path::new(&config.data_dir);
    if Record::read(path)?.is_none() {
        let path = path.to_owned();
        return Err(RepairError::Nothing { path });
    }
    let (holding, before) = settle(config)?;
    let own = config.own_address();
    Ok(format!(
        "node {} is at {}:{} now, with its data in {} (before: {before}). Its address must be the same in the \
         configurations of all nodes",
        config.node_id,
        own.host,
        own.peer_port,
        holding.directory.path().display(),
    ))
}
