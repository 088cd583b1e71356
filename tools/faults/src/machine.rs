//! What this machine can do, and commands of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::trouble::Trouble;

/// Where system tools lie, also for those who do not have it in their PATH.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin";

/// What a scenario cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Root,
    /// Loop devices that can be mounted.
    Loop,
    Tool {
        program: &'static str,
        package: &'static str,
    },
    /// The program `drakkar` beside this one.
    Drakkar,
    /// A file that the kernel shows if it can do what is needed.
    File {
        path: &'static str,
        what: &'static str,
    },
}

impl Need {
    /// Why it is not there.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Root if !rustix::process::geteuid().is_root() => Some("needs root".to_owned()),
            Self::Loop if !Path::new("/dev/loop-control").exists() => {
                Some("needs loop devices: there is no /dev/loop-control".to_owned())
            }
            Self::Loop => loop_devices().as_ref().err().cloned(),
            Self::Tool { program, package } if find(program).is_none() => {
                Some(format!("needs {program}: apt-get install {package}"))
            }
            Self::Drakkar if crate::nodes::program().is_none() => {
                Some("needs drakkar beside this program: cargo build -p drakkar".to_owned())
            }
            Self::File { path, what } if !Path::new(path).exists() => {
                Some(format!("needs {what}: there is no {path}"))
            }
            _ => None,
        }
    }
}

/// Containers show loop devices and do not let them be used: one is tried.
fn loop_devices() -> &'static Result<(), String> {
    static TRIED: OnceLock<Result<(), String>> = OnceLock::new();
    TRIED.get_or_init(|| {
        let name = format!("drakkar-faults-probe-{}", std::process::id());
        let image = std::env::temp_dir().join(name);
        let outcome = std::fs::File::create(&image)
            .and_then(|file| file.set_len(1 << 20))
            .map_err(Trouble::io("create", &image))
            .and_then(|()| {
                run(
                    "losetup",
                    &["--find", "--show", &image.display().to_string()],
                )
            })
            .and_then(|device| run("losetup", &["--detach", device.trim()]));
        drop(std::fs::remove_file(&image));
        match outcome {
            Ok(_) => Ok(()),
            Err(trouble) => Err(format!("needs loop devices: {trouble}")),
        }
    })
}

/// Where a program lies.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path.split(':').chain(PLACES.split(':'));
    places
        .map(|place| Path::new(place).join(program))
        .find(|path| path.is_file())
}

/// A program of the system; stdin is closed.
pub(crate) fn command(program: &str) -> Command {
    let program = find(program).unwrap_or_else(|| program.into());
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a program to its end; what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, Trouble> {
    let output = command(program).args(arguments).output();
    let output = output.map_err(Trouble::io("run", Path::new(program)))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(Trouble::Command {
        line: format!("{program} {}", arguments.join(" ")),
        said: format!("{}, {}", output.status, stderr.trim().replace('\n', "; ")),
    })
}

/// Lets a child end when this process does, whatever ends it.
pub(crate) fn die_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // Ctrl-C is for this process, which ends its children itself.
    command.process_group(0);
    #[expect(unsafe_code, reason = "only the child can ask for the signal")]
    // SAFETY: between fork and exec only one system call is made; it allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

static INTERRUPT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on signals end this program in order: waits fail, and what was set up is taken down.
pub(crate) fn watch_signals() -> std::io::Result<()> {
    let flag = INTERRUPT.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(())
}

/// [`Trouble::Interrupted`] once a signal came.
pub(crate) fn interrupted() -> Result<(), Trouble> {
    match INTERRUPT.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Trouble::Interrupted),
        _ => Ok(()),
    }
}

/// Tries until it works, at most `times` with a pause between.
pub(crate) fn persist<T>(
    times: u32,
    mut attempt: impl FnMut() -> Result<T, Trouble>,
) -> Result<T, Trouble> {
    for _ in 1..times {
        if let Ok(value) = attempt() {
            return Ok(value);
        }
        interrupted()?;
        std::thread::sleep(Duration::from_millis(100));
    }
    attempt()
}
