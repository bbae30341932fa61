//! Other programs, their signals and their ports.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpSocket};

use super::PATIENCE;

/// How much of a program's output is shown when its test fails.
const SHOWN: usize = 200;

/// A port of loopback that is ours as long as this lives, whether or not a
/// program listens on it at the moment.
///
/// A socket is bound to it and never listens. Whoever sets `SO_REUSEADDR` can
/// still listen there, which every server does; the kernel gives it to nobody
/// who asks for a free port; and while nobody listens, connecting is refused.
/// So a program can be killed and started again on the same port with no other
/// test in between.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _placeholder: TcpSocket,
}

impl ReservedPort {
    pub fn new() -> Self {
        let placeholder = reusing();
        placeholder.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { address: placeholder.local_addr().unwrap(), _placeholder: placeholder }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Listens there in this process.
    pub fn listen(&self) -> TcpListener {
        let socket = reusing();
        socket.bind(self.address).unwrap();
        socket.listen(1024).unwrap()
    }
}

fn reusing() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket
}

/// A running program. It ends with its owner, and also with a test process
/// that is killed; what it said is shown if the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts it; what it says is added to the file `output`.
    ///
    /// Call it from the test's own thread: the kernel ends the program with
    /// the thread that started it, and those of `spawn_blocking` are short-lived.
    pub fn start(name: &str, program: &str, arguments: &[String], output: &Path) -> Self {
        let file = File::options().create(true).append(true).open(output).unwrap();
        let child = mortal(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        Self { name: name.to_owned(), child, output: output.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has said so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends a signal, such as "TERM". It must not have ended.
    pub fn signal(&mut self, name: &str) {
        // Not yet waited for, so that the number is still its own.
        assert!(self.ended().is_none(), "{} has ended:\n{}", self.name, self.output());
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success(), "{} did not get SIG{name}", self.name);
    }

    /// Stops it, and returns when none of its threads runs any more, which the
    /// signal's sender is not told.
    pub fn stop(&mut self) {
        self.signal("STOP");
        let deadline = Instant::now() + PATIENCE;
        while !self.is_stopped() {
            assert!(Instant::now() < deadline, "{} does not stop", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        // The state is behind the name, which stands in brackets. A thread that
        // has ended meanwhile does not run, and elsewhere than on Linux there
        // is nothing to read.
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid())) else { return true };
        let mut states = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("stat")).ok());
        states.all(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub async fn end(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end:\n{}", self.name, self.output());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let n = output.lines().count();
            let last: Vec<_> = output.lines().skip(n.saturating_sub(SHOWN)).collect();
            eprintln!("---- the last {} of {n} lines of {}\n{}", last.len(), self.name, last.join("\n"));
        }
    }
}

/// A command whose process dies with the thread that starts it, also if that
/// is killed and drops nothing.
///
/// The death signal must be set between fork and exec, which in this process
/// takes `unsafe`; the wrapper sets it in its own process and then becomes the
/// program, which keeps the process id. Where there is no such wrapper, a
/// killed test run leaves its programs behind.
fn mortal(program: &str) -> Command {
    static HAS_WRAPPER: LazyLock<bool> = LazyLock::new(|| {
        let tried = Command::new("setpriv").args(["--pdeathsig", "KILL", "true"]).output();
        tried.is_ok_and(|output| output.status.success())
    });
    if *HAS_WRAPPER {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", program]);
        command
    } else {
        Command::new(program)
    }
}
