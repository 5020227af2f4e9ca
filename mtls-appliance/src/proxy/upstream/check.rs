//! Active checks of origin addresses, over the real way: TCP, mutual TLS, a GET, the head of its answer. And the clock
//! that starts them, and the look-ups of names.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use super::{Server, Upstream, resolve};
use crate::app::{Live, Phase, Shared};
use crate::config::HealthCheck;
use crate::http1::{Exchange, HeadScanner, Method, Version, parse_response_with};
use crate::proxy::buffer::Buffer;
use crate::proxy::channel::{Patience, Read};
use crate::proxy::origin;

/// How exactly the intervals are kept.
const TICK: Duration = Duration::from_millis(100);
/// How soon a reload is noticed that gives something to do.
const NOTHING_TO_DO: Duration = Duration::from_secs(1);
/// After this long a name is looked up again that was not found at the start.
const RETRY: Duration = Duration::from_secs(1);

/// Looks names up and checks addresses until the process drains.
///
/// # Errors
/// The event loop cannot be set up.
pub(crate) fn run(shared: Arc<Shared>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, tend(shared));
    Ok(())
}

/// What is under way, and when each thing is due next.
#[derive(Default)]
struct Diary {
    due: HashMap<Task, Instant>,
    running: HashSet<Task>,
}

/// Something that is done again and again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Task {
    Resolve(String, String),
    Check(String, SocketAddr),
}

async fn tend(shared: Arc<Shared>) {
    let diary = Rc::new(RefCell::new(Diary::default()));
    let mut phase = shared.phase.subscribe();
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            _ = phase.wait_for(Phase::is_draining) => return,
        }
        let live = shared.live.load_full();
        let mut wanted = HashSet::new();
        for upstream in &live.origins {
            let origin = &upstream.config.name;
            for name in upstream.names_to_resolve() {
                let task = Task::Resolve(origin.clone(), name.to_owned());
                wanted.insert(task.clone());
                // Known ones have just been looked up.
                let first = if upstream.is_known(name) { live.config.resolver.interval } else { RETRY };
                start(&diary, task, first, live.config.resolver.interval, || {
                    let (shared, live, upstream) = (Arc::clone(&shared), Arc::clone(&live), Arc::clone(upstream));
                    let name = name.to_owned();
                    async move {
                        resolve::refresh_and_report(&shared, &live.config.resolver, &upstream, &name).await;
                    }
                });
            }
            let Some(health) = &upstream.config.health else { continue };
            for server in upstream.servers() {
                let task = Task::Check(origin.clone(), server.address);
                wanted.insert(task.clone());
                start(&diary, task, Duration::ZERO, health.interval, || {
                    let (shared, live, upstream) = (Arc::clone(&shared), Arc::clone(&live), Arc::clone(upstream));
                    async move { check(&shared, &live, &upstream, &server).await }
                });
            }
        }
        pause = if wanted.is_empty() { NOTHING_TO_DO } else { TICK };
        diary.borrow_mut().due.retain(|task, _| wanted.contains(task));
    }
}

/// Starts a task if it is due and not running.
fn start<F: Future<Output = ()> + 'static>(
    diary: &Rc<RefCell<Diary>>,
    task: Task,
    first: Duration,
    again: Duration,
    make: impl FnOnce() -> F,
) {
    let now = Instant::now();
    {
        let mut diary = diary.borrow_mut();
        let due = *diary.due.entry(task.clone()).or_insert(now + first);
        if due > now || !diary.running.insert(task.clone()) {
            return;
        }
        diary.due.insert(task.clone(), now + again);
    }
    let (work, diary) = (make(), Rc::clone(diary));
    tokio::task::spawn_local(async move {
        work.await;
        diary.borrow_mut().running.remove(&task);
    });
}

async fn check(shared: &Shared, live: &Arc<Live>, upstream: &Upstream, server: &Server) {
    let Some(health) = &upstream.config.health else { return };
    let outcome = timeout(health.timeout, ask(shared, live, upstream, server, health)).await;
    let problem = match outcome {
        Ok(Ok(200..=399)) => None,
        Ok(Ok(status)) => Some(format!("health check: status {status}")),
        Ok(Err(problem)) => Some(format!("health check: {problem}")),
        Err(_) => Some("health check: no answer in time".to_owned()),
    };
    shared.counters.health_checks.increment();
    if problem.is_some() {
        shared.counters.health_checks_failed.increment();
    }
    if let Some(change) = server.checked(problem, health.fall, health.rise) {
        upstream.report(&shared.log, &shared.counters, server, change);
    }
}

/// One GET; the status of its answer.
async fn ask(
    shared: &Shared,
    live: &Arc<Live>,
    upstream: &Upstream,
    server: &Server,
    health: &HealthCheck,
) -> Result<u16, String> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: mtls-appliance/{} (health check)\r\nConnection: close\r\n\r\n",
        health.path,
        upstream.config.server_name,
        env!("CARGO_PKG_VERSION"),
    );
    let channel = origin::connect(shared, live, upstream, server.address).await.map_err(|error| error.to_string())?;
    let until = Instant::now() + health.timeout;
    let patience = Patience::Until(until);
    channel.write_all(&[request.as_bytes()], patience).await.map_err(|error| error.to_string())?;
    let limits = live.response_limits();
    let exchange =
        Exchange { method: Method::Get, client_version: Version::Http11, client_keep_alive: false, upgrade: b"" };
    let mut buffer = Buffer::new(live.buffer_size());
    let mut scanner = HeadScanner::new();
    let status = loop {
        match parse_response_with(&mut scanner, buffer.filled(), &exchange, &limits) {
            Ok(Some(head)) if head.status() < 200 => buffer.consume(head.head_len()),
            Ok(Some(head)) => break head.status(),
            Ok(None) => match channel.read(&mut buffer, patience).await {
                Ok(Read::Data(_)) => {}
                Ok(Read::Closed) => return Err("closed without an answer".to_owned()),
                Err(error) => return Err(error.to_string()),
            },
            Err(error) => return Err(error.to_string()),
        }
    };
    channel.close(until).await;
    Ok(status)
}
