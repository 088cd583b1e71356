//! Commands of a repair, run on its hosts from one place: by ssh, or by whatever reaches them.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};
use std::str::FromStr;
use std::thread;

use clap::Args;

use super::RepairError;

const COMMAND: &str = "{command}";

#[derive(Args)]
pub(super) struct Hosts {
    /// A node, its machine, and its configuration there: NODE=HOST:CONFIG. Once for each.
    #[arg(long = "host", value_name = "NODE=HOST:CONFIG", required = true)]
    hosts: Vec<Host>,
    /// How a command is run on a machine: a line for sh, with {host}, {node} and {command}, which is one
    /// quoted word. Standard input and output must reach the command.
    #[arg(long, value_name = "LINE", default_value = "ssh {host} {command}", value_parser = template)]
    run: String,
    /// Does it; without this, only says what would be done.
    #[arg(long)]
    yes: bool,
}

/// Where a node is, and is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) node: u32,
    name: String,
    config: String,
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (node, place) = text.split_once('=')?;
            let (name, config) = place.rsplit_once(':')?;
            let whole = !name.is_empty() && !name.starts_with('-') && !config.is_empty();
            whole.then_some((node.parse().ok()?, name, config))
        };
        let (node, name, config) = parts().ok_or("use NODE=HOST:CONFIG")?;
        Ok(Self {
            node,
            name: name.to_owned(),
            config: config.to_owned(),
        })
    }
}

fn template(text: &str) -> Result<String, &'static str> {
    match text.contains(COMMAND) {
        true => Ok(text.to_owned()),
        false => Err("{command} must be in it"),
    }
}

impl Host {
    /// The configuration's path, as a word of a command.
    pub(super) fn config(&self) -> String {
        quoted(&self.config)
    }

    fn told(&self) -> String {
        format!("node {} ({})", self.node, self.name)
    }
}

/// A command on a host that did not end well.
#[derive(Debug, thiserror::Error)]
#[error("{host}: `{command}` ended with {}: {said}", code.map_or_else(|| "a signal".to_owned(), |code| code.to_string()))]
pub(crate) struct Failed {
    host: String,
    command: String,
    /// Nothing if a signal ended it.
    pub(super) code: Option<i32>,
    said: String,
}

/// A command for each host, in order.
pub(super) struct Steps<'a> {
    hosts: &'a Hosts,
    steps: Vec<(&'a Host, String)>,
    /// What each is told on its standard input.
    input: String,
}

impl Hosts {
    /// By the numbers of the nodes.
    pub(super) fn sorted(&self) -> Result<Vec<&Host>, RepairError> {
        let mut hosts: Vec<&Host> = self.hosts.iter().collect();
        hosts.sort_by_key(|host| host.node);
        if let Some(twice) = hosts.windows(2).find(|two| two[0].node == two[1].node) {
            let why = format!("node {} has two hosts", twice[0].node);
            return Err(RepairError::InvalidMembers { why });
        }
        Ok(hosts)
    }

    /// Runs a command that changes nothing, and gives what it says.
    pub(super) fn look(&self, host: &Host, command: &str, input: &str) -> Result<String, Failed> {
        let line = self.line(host, command);
        let failed = |code, said: &str| Failed {
            host: host.told(),
            command: command.to_owned(),
            code,
            said: said.trim().to_owned(),
        };
        let output = piped(&line, input).map_err(|error| failed(None, &error.to_string()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = match output.stderr.is_empty() {
            true => text(&output.stdout),
            false => text(&output.stderr),
        };
        Err(failed(output.status.code(), &said))
    }

    /// What runs here so that a command runs there.
    fn line(&self, host: &Host, command: &str) -> String {
        let named = self.run.replace("{host}", &quoted(&host.name));
        let named = named.replace("{node}", &host.node.to_string());
        // Last, for it may hold braces.
        named.replace(COMMAND, &quoted(command))
    }

    /// These commands, each with this on its standard input.
    pub(super) fn steps<'a>(&'a self, steps: Vec<(&'a Host, String)>, input: String) -> Steps<'a> {
        Steps {
            hosts: self,
            steps,
            input,
        }
    }
}

impl Steps<'_> {
    /// Tells them all; with `--yes` runs one after the other, until one fails. `check` judges what each says.
    pub(super) fn drive(
        &self,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<String, RepairError> {
        let lines = self.steps.iter().zip(1..).map(|((host, command), number)| {
            format!("  {number}. {}", self.hosts.line(host, command))
        });
        let lines: Vec<String> = lines.collect();
        if self.steps.is_empty() {
            return Ok("Done on all of them before: start them.".to_owned());
        }
        if !self.hosts.yes {
            return Ok(format!(
                "{}\nNothing was changed. The same with --yes runs these, and stops at the first that fails.",
                lines.join("\n")
            ));
        }
        for (number, (host, command)) in self.steps.iter().enumerate() {
            println!("{}", lines[number]);
            let done = self.hosts.look(host, command, &self.input);
            let done = done.and_then(|said| match check(&said) {
                Ok(()) => Ok(said),
                Err(why) => Err(Failed {
                    host: host.told(),
                    command: command.clone(),
                    code: Some(0),
                    said: why,
                }),
            });
            match done {
                Ok(said) => println!("     done{}", last_line(&said)),
                Err(failed) => {
                    return Err(RepairError::Step {
                        failed,
                        told: self.told(number),
                    });
                }
            }
            // A terminal that is gone stops nothing.
            drop(io::stdout().flush());
        }
        Ok("Done on all of them: start them.".to_owned())
    }

    /// Which are done and which are left, when one has failed.
    fn told(&self, failed: usize) -> String {
        let mut text = String::new();
        for (number, (host, command)) in self.steps.iter().enumerate() {
            let how = match number.cmp(&failed) {
                std::cmp::Ordering::Less => "done",
                std::cmp::Ordering::Equal => "failed",
                std::cmp::Ordering::Greater => "not begun",
            };
            let host = host.told();
            write!(text, "\n  {}. {how}: {host}: {command}", number + 1)
                .expect("a string takes everything");
        }
        text
    }
}

/// The last line of what a command said, behind a colon.
fn last_line(said: &str) -> String {
    let last = said.trim().lines().last();
    last.map(|line| format!(": {line}")).unwrap_or_default()
}

/// Runs a line of sh.
fn piped(line: &str, input: &str) -> io::Result<Output> {
    let mut child = Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // Who does not read it says why on its own.
            stdin.and_then(|mut stdin| stdin.write_all(input.as_bytes()).ok())
        });
        child.wait_with_output()
    })
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+=./:,@%".contains(&byte);
    match !text.is_empty() && text.bytes().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(run: &str) -> Hosts {
        Hosts {
            hosts: vec!["1=db1:/etc/node 1.toml".parse().expect("a host")],
            run: template(run).expect("a template"),
            yes: false,
        }
    }

    #[test]
    fn a_command_is_one_word_for_the_shell_here_and_words_for_the_shell_there() {
        let hosts = hosts("ssh {host} {command}");
        let host = &hosts.hosts[0];
        let command = format!("drakkar repair shrink --config {}", host.config());
        assert_eq!(
            hosts.line(host, &command),
            r"ssh db1 'drakkar repair shrink --config '\''/etc/node 1.toml'\'''"
        );
        let there = hosts_that_echo(&format!("printf '%s,' {}", host.config()));
        assert_eq!(there, "/etc/node 1.toml,");
    }

    fn hosts_that_echo(command: &str) -> String {
        let hosts = hosts("sh -c {command}");
        hosts
            .look(&hosts.hosts[0], command, "")
            .expect("it is said")
    }

    #[test]
    fn what_is_no_host_or_no_template_is_refused() {
        for text in [
            "1",
            "1=db1",
            "x=db1:/f",
            "1=:/f",
            "1=db1:",
            "1=-oProxyCommand=x:/f",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
        assert!(template("ssh {host}").is_err());
    }

    #[test]
    fn the_standard_input_reaches_a_command_however_much_it_is() {
        let hosts = hosts("sh -c {command}");
        let input = "x".repeat(1 << 20);
        let said = hosts.look(&hosts.hosts[0], "cat", &input);
        assert_eq!(said.expect("it ends"), input);
        let failed = hosts.look(&hosts.hosts[0], "echo why >&2; exit 4", &input);
        let failed = failed.expect_err("it fails");
        assert_eq!(
            failed.to_string(),
            "node 1 (db1): `echo why >&2; exit 4` ended with 4: why"
        );
    }
}
