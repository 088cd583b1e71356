//! `drakkar demo`: a cluster of three processes on this machine.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use ports::Ports;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::{exit, status};

const NODES: u16 = 3;
/// How far above the client ports.
const ADMIN_ABOVE: u16 = 2000;
const PEER_ABOVE: u16 = 10_000;
const STEP: Duration = Duration::from_millis(100);
/// Steps to wait for leaders, and for a node to stop.
const START_STEPS: u32 = 1200;
const STOP_STEPS: usize = 100;

#[derive(Args)]
pub(crate) struct Options {
    /// Keeps the data here; without it, a temporary directory is removed at the end.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Threads of each node.
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// Raft groups; by default three for each shard, one led by each node.
    #[arg(long)]
    groups: Option<u32>,
    /// Client port of the first node; peers listen 10000 above, admin 2000 above.
    #[arg(long, default_value_t = 7001)]
    base_port: u16,
    /// Answers MOVED instead of forwarding commands to the node that leads the key.
    #[arg(long)]
    no_proxy: bool,
}

impl Options {
    fn client_port(&self, node: u16) -> u16 {
        self.base_port + (node - 1) * self.shards
    }

    fn admin_port(&self, node: u16) -> u16 {
        self.base_port + ADMIN_ABOVE + node - 1
    }

    fn groups(&self) -> u32 {
        self.groups.unwrap_or(u32::from(NODES * self.shards))
    }

    fn config(&self, node: u16, directory: &Path) -> String {
        let mut text = format!(
            "[node]\nid = {node}\ndata_dir = \"{}\"\nany_file_system = true\n\n\
             [cluster]\nid = \"demo\"\nshards = {}\ngroups = {}\n\n\
             [log]\nsegment_size = \"64MB\"\n\n[client]\nproxy = {}\n",
            directory.join(format!("n{node}")).display(),
            self.shards,
            self.groups(),
            !self.no_proxy,
        );
        for node in 1..=NODES {
            let client = self.client_port(node);
            text.push_str(&format!(
                "\n[[cluster.nodes]]\nid = {node}\nhost = \"127.0.0.1\"\nclient_port = {client}\n\
                 peer_port = {}\nadmin_port = {}\n",
                client + PEER_ABOVE,
                self.admin_port(node),
            ));
        }
        text
    }
}

/// One node's process.
struct Member {
    node: u16,
    child: Child,
    log: PathBuf,
}

/// The processes, and where they keep their data.
struct Demo {
    members: Vec<Member>,
    directory: PathBuf,
    temporary: bool,
}

pub(crate) fn run(options: &Options) -> ExitCode {
    let highest =
        u32::from(options.base_port) + u32::from(PEER_ABOVE) + u32::from(NODES * options.shards);
    if options.shards == 0 || highest > u32::from(u16::MAX) {
        return exit::complain(
            2,
            &"--shards must be at least 1, and --base-port leave room for all ports",
        );
    }
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, ended.clone()) {
            return exit::complain(exit::ERROR, &error);
        }
    }
    let result = Demo::start(options).and_then(|mut demo| {
        let result = demo.attend(options, &ended);
        demo.stop();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => exit::complain(exit::ERROR, &complaint),
    }
}

/// A cluster of defaults on ports that were free, until it is dropped. Its files stay.
pub(crate) struct Scratch {
    demo: Demo,
    options: Options,
    _ports: Ports,
}

impl Scratch {
    /// Waits until it serves.
    pub(crate) fn start(directory: &Path) -> Result<Self, String> {
        let ports = Ports::reserve_at(NODES, &[0, ADMIN_ABOVE, PEER_ABOVE]);
        let ports = ports.map_err(|refusal| refusal.to_string())?;
        let options = Options {
            dir: Some(directory.to_owned()),
            shards: 1,
            groups: None,
            base_port: ports.first(),
            no_proxy: false,
        };
        let demo = Demo::start(&options)?;
        // From here on its nodes are stopped, whatever happens.
        let mut scratch = Self {
            demo,
            options,
            _ports: ports,
        };
        scratch
            .demo
            .await_leaders(&scratch.options, &AtomicBool::default())?;
        Ok(scratch)
    }

    /// Where clients connect.
    pub(crate) fn clients(&self) -> Vec<String> {
        let port = |node| format!("127.0.0.1:{}", self.options.client_port(node));
        (1..=NODES).map(port).collect()
    }

    pub(crate) fn admins(&self) -> Vec<String> {
        let port = |node| format!("127.0.0.1:{}", self.options.admin_port(node));
        (1..=NODES).map(port).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.demo.stop();
    }
}

impl Demo {
    fn start(options: &Options) -> Result<Self, String> {
        let temporary = options.dir.is_none();
        let directory = options.dir.clone().unwrap_or_else(|| {
            std::env::temp_dir().join(format!("drakkar-demo-{}", std::process::id()))
        });
        let failed = |error| format!("cannot write to {}: {error}", directory.display());
        fs::create_dir_all(&directory).map_err(failed)?;
        let directory = directory.canonicalize().map_err(failed)?;
        let mut demo = Self {
            members: Vec::new(),
            directory,
            temporary,
        };
        for node in 1..=NODES {
            let started = demo.start_member(options, node);
            if let Err(error) = started {
                demo.stop();
                return Err(error.to_string());
            }
        }
        Ok(demo)
    }

    fn start_member(&mut self, options: &Options, node: u16) -> std::io::Result<()> {
        let config = self.directory.join(format!("n{node}.toml"));
        fs::write(&config, options.config(node, &self.directory))?;
        let log = self.directory.join(format!("n{node}.log"));
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--config").arg(&config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        // Ctrl-C reaches this process only, which then stops the nodes one after the other.
        command.process_group(0);
        #[allow(
            unsafe_code,
            reason = "the node must die with this process, whatever kills it"
        )]
        // SAFETY: between fork and exec only one system call is made; it allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        self.members.push(Member {
            node,
            child: command.spawn()?,
            log,
        });
        Ok(())
    }

    /// Waits for leaders, says how to connect, and watches the nodes until the end.
    fn attend(&mut self, options: &Options, ended: &AtomicBool) -> Result<(), String> {
        self.await_leaders(options, ended)?;
        if !ended.load(Ordering::Relaxed) {
            self.greet(options);
        }
        while !ended.load(Ordering::Relaxed) {
            self.watch()?;
            sleep(STEP);
        }
        Ok(())
    }

    /// Returns early if it is to end.
    fn await_leaders(&mut self, options: &Options, ended: &AtomicBool) -> Result<(), String> {
        let mut steps = 0;
        while !self.is_led(options) {
            self.watch()?;
            steps += 1;
            if steps > START_STEPS {
                return Err(format!(
                    "no leaders after {:?}: see the logs in {}",
                    STEP * START_STEPS,
                    self.directory.display()
                ));
            }
            if ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            sleep(STEP);
        }
        Ok(())
    }

    /// Whether each group is led by one node.
    fn is_led(&self, options: &Options) -> bool {
        let mut led = 0;
        for node in 1..=NODES {
            let endpoint = format!("127.0.0.1:{}", options.admin_port(node));
            let Ok(answer) = status::ask(&endpoint) else {
                return false;
            };
            let groups = answer["groups"].as_array().cloned().unwrap_or_default();
            led += groups
                .iter()
                .filter(|group| group["role"] == "leader")
                .count();
        }
        led == options.groups() as usize
    }

    fn greet(&self, options: &Options) {
        let port = options.base_port;
        let last = options.client_port(NODES);
        let admin: Vec<String> = (1..=NODES)
            .map(|node| format!("127.0.0.1:{}", options.admin_port(node)))
            .collect();
        let pids: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("n{} {}", member.node, member.child.id()))
            .collect();
        println!(
            "drakkar: 3 nodes, {} groups, every group has a leader",
            options.groups()
        );
        println!(
            "  redis      redis-cli -c -p {port}        (or any of {port}-{last}, with or without -c)"
        );
        println!("  benchmark  redis-benchmark -p {port} -t set,get -P 16 -n 200000 -q");
        println!("  status     drakkar status --endpoint {}", admin.join(","));
        println!("  processes  {}", pids.join(", "));
        println!("  data       {}", self.directory.display());
        println!(
            "  stop       Ctrl-C{}",
            if self.temporary {
                " (the data is removed)"
            } else {
                ""
            }
        );
    }

    /// Reports nodes that ended by themselves; an error once none is left.
    fn watch(&mut self) -> Result<(), String> {
        let mut left = Vec::new();
        for mut member in self.members.drain(..) {
            match member.child.try_wait() {
                Ok(None) => left.push(member),
                Ok(Some(status)) => {
                    eprintln!("node n{} ended: {status}; the end of its log:", member.node);
                    eprintln!("{}", tail(&member.log));
                    eprintln!(
                        "start it again with: drakkar serve --config {}/n{}.toml",
                        self.directory.display(),
                        member.node
                    );
                }
                Err(error) => return Err(format!("node n{}: {error}", member.node)),
            }
        }
        self.members = left;
        if self.members.is_empty() {
            Err("no node is left".to_owned())
        } else {
            Ok(())
        }
    }

    /// Asks every node to stop, and ends those that do not.
    fn stop(&mut self) {
        for member in &self.members {
            if let Some(pid) = i32::try_from(member.child.id())
                .ok()
                .and_then(Pid::from_raw)
            {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        for member in &mut self.members {
            let mut steps = 0;
            while matches!(member.child.try_wait(), Ok(None)) {
                steps += 1;
                if steps > STOP_STEPS {
                    eprintln!("node n{} does not stop: it is killed", member.node);
                    // Both fail only if it has just ended.
                    let _ = member.child.kill();
                    let _ = member.child.wait();
                    break;
                }
                sleep(STEP);
            }
        }
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.directory)
        {
            eprintln!("cannot remove {}: {error}", self.directory.display());
        }
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
