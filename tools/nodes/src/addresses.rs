//! Where the nodes of a cluster listen.

use ports::{NoPorts, Ports, is_free};

/// Of each node: for clients, for peers, for its admin.
const PORTS: u16 = 3;

/// Three neighbouring ports for each node from 1 on, all on loopback, that are nobody else's while this lives.
#[derive(Debug)]
pub struct Addresses(Ports);

impl Addresses {
    /// For so many nodes of one shard each.
    pub fn reserve(nodes: u16) -> Result<Self, NoPorts> {
        Ports::reserve(nodes * PORTS).map(Self)
    }

    /// Where a node's clients connect.
    pub fn client(&self, node: u16) -> u16 {
        assert!(node > 0, "nodes are numbered from 1 on");
        self.0.first() + (node - 1) * PORTS
    }

    /// Where its peers do.
    pub fn peer(&self, node: u16) -> u16 {
        self.client(node) + 1
    }

    /// Where it tells how it is.
    pub fn admin(&self, node: u16) -> u16 {
        self.client(node) + 2
    }

    /// The sections of a configuration that name these nodes as the members.
    pub fn members(&self, nodes: &[u16]) -> String {
        let member = |&node: &u16| {
            format!(
                "\n[[cluster.nodes]]\nid = {node}\nhost = \"127.0.0.1\"\nclient_port = {}\n\
                 peer_port = {}\nadmin_port = {}\n",
                self.client(node),
                self.peer(node),
                self.admin(node),
            )
        };
        nodes.iter().map(member).collect()
    }

    /// Whether a node that has ended has left its ports: the kernel closes what io_uring held a little later.
    pub fn are_free(&self, node: u16) -> bool {
        let first = self.client(node);
        (first..first + PORTS).all(is_free)
    }
}
