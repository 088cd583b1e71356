//! The connections of a shard with other nodes: whom it dials, whom it lets in, and what either is told.

use std::rc::Rc;
use std::sync::Arc;

use net::peer::{Cause, Hello, Refusal, Refused, VERSION};
use wal::NodeId;

use super::executor::Executor;
use super::identity::{Caller, Presence};
use super::mailbox::Letter;
use super::node::NodeError;
use super::peer::{self, Link};
use super::socket::Socket;

impl Executor {
    /// Dials the nodes that the book has, and no others.
    pub(super) fn follow_book(self: &Rc<Self>) {
        let version = self.book.version();
        if self.links_version.replace(version) == version {
            return;
        }
        let (nodes, own) = (self.book.nodes(), self.config.node_id);
        let is_gone = |_: &NodeId, link: &mut Rc<Link>| !nodes.contains(&link.address);
        let mut links = self.links.borrow_mut();
        let gone: Vec<(NodeId, Rc<Link>)> = links.extract_if(.., is_gone).collect();
        drop(links);
        for (node, link) in gone {
            drop(self.dialling.borrow_mut().remove(&node));
            link.overdue(None, |token| self.lost(token, node));
        }
        let mut links = self.links.borrow_mut();
        let mut dialling = self.dialling.borrow_mut();
        for address in nodes.iter().filter(|address| address.id != own) {
            let node = NodeId::from_raw(address.id);
            if links.contains_key(&node) {
                continue;
            }
            let link = Rc::new(Link::new(address.clone(), &self.config.limits));
            links.insert(node, link.clone());
            let task = glommio::spawn_local(link.run(self.clone()));
            dialling.insert(node, task);
        }
    }

    /// Ends all connections that this shard dialled.
    pub(super) fn stop_dialling(&self) {
        drop(self.dialling.take());
    }

    pub(super) fn link(&self, node: NodeId) -> Option<Rc<Link>> {
        self.links.borrow().get(&node).cloned()
    }

    /// Notes a connection that a peer has dialled.
    pub(super) fn dialled(&self, socket: &Rc<Socket>) {
        let mut dialled = self.dialled.borrow_mut();
        dialled.retain(|socket| socket.strong_count() > 0);
        dialled.push(Rc::downgrade(socket));
    }

    /// Ends the connections that peers have dialled: who serves them may not come to it any more, and the
    /// kernel would go on to take what is sent while the process lives.
    pub(super) fn hang_up(&self) {
        for socket in self.dialled.take() {
            if let Some(socket) = socket.upgrade() {
                socket.close();
            }
        }
    }

    /// What this shard says when it dials `to`.
    pub(super) fn hello(&self, to: NodeId) -> Hello {
        Hello {
            cluster: self.config.cluster.id.clone(),
            from: self.config.node().to_raw(),
            to: to.to_raw(),
            shard: u32::from(self.index),
            version_min: VERSION,
            version_max: VERSION,
            instance: self.instance,
            fingerprint: self.config.fingerprint(),
            start: self.register.start,
            manner: self.register.manner(),
            standing: self.register.standing(),
        }
    }

    /// Whether a peer that dialled is let in, and the format both speak.
    pub(super) fn admit(&self, hello: &Hello) -> Result<(u16, Arc<Presence>), Refusal> {
        let here = self.hello(NodeId::from_raw(hello.from));
        let version = hello.admit(&here, &self.register.removed())?;
        let caller = Caller {
            node: hello.from,
            instance: hello.instance,
            start: hello.start,
            manner: hello.manner,
        };
        let silence_max = peer::silence_max(self);
        let presence = self
            .register
            .admit(caller, self.origin.time(), silence_max)?;
        Ok((version, presence))
    }

    /// What a caller is told that is not let in.
    pub(super) fn refuse(&self, caller: u32, refusal: &Refusal) -> Refused {
        let cause = match refusal.cause() {
            // As long as it may come to nothing, what this one waits for ends nobody, and is nothing to join.
            Cause::Fenced | Cause::Removed | Cause::Asked if !self.register.speaks() => {
                Cause::Other
            }
            cause => cause,
        };
        Refused {
            cause,
            standing: self.register.standing(),
            known: self.register.known(caller),
            reason: refusal.to_string(),
        }
    }

    /// A peer does not let this node in: it ends if it must not go on as what it is.
    pub(super) fn refused(&self, peer: NodeId, refused: &Refused) {
        let (peer, now) = (peer.to_raw(), self.origin.time());
        let silence_max = peer::silence_max(self);
        let verdict = self.register.verdict(refused, peer, now, silence_max);
        let Some(reason) = verdict else {
            return;
        };
        self.fate.fail(NodeError::Refused { peer, reason });
        for mailbox in self.mailboxes.iter() {
            // A shard that has ended already is what is wanted.
            drop(mailbox.post(Letter::Abort));
        }
    }
}
