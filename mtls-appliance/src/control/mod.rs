//! The control socket: who may open it may ask the running appliance for its status, or take its place.
//!
//! The socket belongs to the user of the daemon and nobody else may connect (mode 0600). What is said is in
//! `protocol`, the status itself in `status`, both ends of a take-over in `hand_over` and `take_over`, the guard's events in
//! `watch`.

mod hand_over;
mod protocol;
mod status;
pub(crate) mod take_over;
pub mod watch;
pub(crate) mod wire;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixListener;

use self::protocol::{Answer, Refusal, Request};
pub(crate) use self::status::guard_json;
use self::wire::{Wire, WireError};
use crate::app::Failure;
use crate::daemon::Daemon;
use crate::telemetry::Level;

/// How long either side waits for the other where nothing has to be done meanwhile; on a busy machine that takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Longest status that the command accepts.
const MAX_STATUS: usize = 16 << 20;
/// The name of a socket that is not in its place yet begins so; the process id follows.
const STAGED: &str = ".mtls-";

/// The daemon's end.
///
/// It is made beside its place and moved there when the appliance serves, in one step: a start that fails leaves
/// everything as it was, and while one appliance takes over from another there is always one that answers.
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Where the file is now.
    file: PathBuf,
    /// Device and inode, to tell our file from a successor's.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Makes the socket. Unless it is to take over, nobody may answer in its place.
    ///
    /// # Errors
    /// Another daemon answers there, something else lies there, or the folder cannot be written.
    pub fn stage(path: &Path, take_over: bool) -> Result<Self, Failure> {
        let about =
            |problem: String| Failure::Environment(format!("control.socket = \"{}\": {problem}", path.display()));
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|error| {
            about(format!("cannot create its folder: {error}\n  create it, or choose another path"))
        })?;
        match fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(about("something else lies there\n  remove it by hand, or choose another path".to_owned()));
            }
            _ => {}
        }
        if !take_over && let Ok(stream) = StdStream::connect(path) {
            let process = rustix::net::sockopt::socket_peercred(&stream)
                .map(|peer| format!(" (process {})", peer.pid))
                .unwrap_or_default();
            return Err(about(format!(
                "another appliance answers there{process}\n  start this one with --take-over to put it in the other's \
                 place without refusing a connection; or stop the other, or give this one another socket"
            )));
        }
        remove_stale(folder);
        let file = folder.join(format!("{STAGED}{}", std::process::id()));
        let bind = || -> io::Result<Self> {
            let listener = UnixListener::bind(&file)?;
            fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            let made = fs::symlink_metadata(&file)?;
            Ok(Self { listener, path: path.to_owned(), file: file.clone(), identity: (made.dev(), made.ino()) })
        };
        bind().map_err(|error| {
            about(format!(
                "cannot be bound: {}: {error}\n  choose a path in a folder that this user may write",
                file.display()
            ))
        })
    }

    /// Puts the socket into its place, over the one that is there: from now on this appliance is the one that answers.
    ///
    /// # Errors
    /// The folder cannot be written any more.
    pub fn publish(&mut self) -> Result<(), Failure> {
        fs::rename(&self.file, &self.path).map_err(|error| {
            let path = self.path.display();
            Failure::Environment(format!("control.socket = \"{path}\": cannot be moved into its place: {error}"))
        })?;
        self.file.clone_from(&self.path);
        Ok(())
    }

    /// The next client.
    pub(crate) async fn accept(&self) -> Option<Wire> {
        match self.listener.accept().await {
            Ok((stream, _)) => Some(Wire::new(stream)),
            Err(_) => {
                // Out of descriptors: do not spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A successor's file is left alone; ours would do no harm, for the next start replaces it.
        let ours = fs::symlink_metadata(&self.file).is_ok_and(|there| (there.dev(), there.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.file);
        }
    }
}

/// Removes what starts that were killed left in the folder.
fn remove_stale(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let staged =
            entry.file_name().to_str().and_then(|name| name.strip_prefix(STAGED)?.parse::<u32>().ok()).is_some();
        let nobody =
            || matches!(StdStream::connect(&path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused);
        if staged && nobody() {
            // What cannot be removed does no harm.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Answers one client.
pub(crate) async fn answer(daemon: Arc<Daemon>, mut wire: Wire) {
    let asked = match wire.line(PATIENCE).await {
        Ok(line) => Request::parse(&line),
        Err(error) => Err(Refusal::new(error.reason(), error.to_string())),
    };
    match asked {
        Ok(Request::Status) => {
            let text = format!("{}{}", protocol::ok(), status::status(&daemon));
            // A client that does not read gets nothing; the next one is served all the same.
            let _ = wire.say(&text, &[], PATIENCE).await;
        }
        Ok(Request::Watch) => watch::watch(&daemon, wire).await,
        Ok(Request::TakeOver) => hand_over::hand_over(&daemon, wire).await,
        Err(refusal) => refuse(&daemon, "control_refused", &wire, &refusal).await,
    }
}

async fn refuse(daemon: &Daemon, class: &'static str, wire: &Wire, refusal: &Refusal) {
    daemon.shared.counters.refuse(class, refusal.reason);
    let process = wire.peer().map_or(0, |(_, process)| process);
    let fields = json!({ "process": process, "reason": refusal.reason, "detail": refusal.text });
    daemon.shared.log.event(Level::Warn, class, fields);
    // Whether it can still be told does not matter.
    let _ = wire.say(&refusal.line(), &[], PATIENCE).await;
}

/// Asks a running appliance for its status.
///
/// # Errors
/// None answers at `path`, or it does not answer that.
pub fn ask_status(path: &Path) -> Result<Value, Failure> {
    event_loop()?.block_on(async { status_over(request(path, Request::Status).await?, path).await })
}

/// Asks a running appliance for its status; `None` when none runs.
///
/// # Errors
/// One answers at `path`, but not that.
pub fn ask_status_if_running(path: &Path) -> Result<Option<Value>, Failure> {
    event_loop()?.block_on(async {
        match Wire::connect(path, PATIENCE).await {
            Err(error) if runs_not(&error) => Ok(None),
            Err(error) => Err(unreachable(path, &error)),
            Ok(wire) => status_over(ask(wire, path, Request::Status).await?, path).await.map(Some),
        }
    })
}

async fn status_over(wire: Wire, path: &Path) -> Result<Value, Failure> {
    let text = wire.rest(MAX_STATUS, PATIENCE).await.map_err(|error| unanswered(path, &error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Failure::Environment(format!("control.socket = \"{}\": not a status: {error}", path.display()))
    })
}

fn event_loop() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Environment(format!("cannot make an event loop: {error}")))
}

/// Asks, and reads the answer line; what follows it is the caller's to read.
async fn request(path: &Path, request: Request) -> Result<Wire, Failure> {
    let wire = Wire::connect(path, PATIENCE).await.map_err(|error| unreachable(path, &error))?;
    ask(wire, path, request).await
}

fn runs_not(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        _ if runs_not(error) => "no appliance runs with this configuration",
        io::ErrorKind::PermissionDenied => "ask as the user that runs the appliance, or as root",
        _ => "see the appliance's log",
    };
    Failure::Environment(format!("control.socket = \"{}\": {error}\n  {remedy}", path.display()))
}

async fn ask(mut wire: Wire, path: &Path, request: Request) -> Result<Wire, Failure> {
    let about = |text: String| Failure::Environment(format!("control.socket = \"{}\": {text}", path.display()));
    let said = async {
        wire.say(&request.line(), &[], PATIENCE).await?;
        wire.line(PATIENCE).await
    };
    let line = said.await.map_err(|error| unanswered(path, &error))?;
    match Answer::parse(&line) {
        Some(Answer::Ok) => Ok(wire),
        Some(Answer::Refused(why)) => Err(about(format!("the running appliance refuses: {why}"))),
        None => Err(unanswered(path, &WireError::Malformed(line))),
    }
}

fn unanswered(path: &Path, error: &WireError) -> Failure {
    Failure::Environment(format!(
        "control.socket = \"{}\": whoever listens there does not answer: {error}\n  see the appliance's log; restart it \
         if it is of a version that this one does not understand",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("control-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn entries(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn stage(path: &Path, take_over: bool) -> Result<ControlSocket, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        ControlSocket::stage(path, take_over)
    }

    #[test]
    fn what_a_killed_start_left_is_removed_and_a_failed_one_leaves_nothing() {
        let folder = Folder::new("stale");
        let left = folder.0.join(".mtls-1");
        drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
        fs::write(folder.0.join(".mtls-notes"), "").unwrap();
        drop(stage(&folder.0.join("control.sock"), false).unwrap());
        assert_eq!(folder.entries(), [".mtls-notes"]);
    }

    #[test]
    fn a_successor_takes_the_place_and_the_predecessor_leaves_it_alone() {
        let folder = Folder::new("successor");
        let path = folder.0.join("control.sock");
        let mut old = stage(&path, false).unwrap();
        old.publish().unwrap();
        let refusal = stage(&path, false).err().unwrap().to_string();
        assert!(refusal.contains("--take-over") && refusal.contains(&std::process::id().to_string()), "{refusal}");
        let mut new = stage(&path, true).unwrap();
        new.publish().unwrap();
        drop(old);
        assert!(StdStream::connect(&path).is_ok());
        drop(new);
        assert_eq!(folder.entries(), [""; 0]);
    }

    #[test]
    fn a_file_of_somebody_else_is_never_replaced() {
        let folder = Folder::new("foreign");
        let path = folder.0.join("control.sock");
        fs::write(&path, "precious").unwrap();
        for take_over in [false, true] {
            let refusal = stage(&path, take_over).err().unwrap().to_string();
            assert!(refusal.contains("control.socket") && refusal.contains("something else"), "{refusal}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
