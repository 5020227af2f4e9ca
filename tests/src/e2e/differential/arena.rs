//! The origin that plays its part of every plan, and the clients that play theirs.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use mtls_appliance_tests::harness::{Cipher, Incoming, Lab, RawClient, RawServer, RawWriter};

use super::plan::{Exchange, How, Plan};
use super::play::{Paced, Verdict, cut, receive_answer, receive_body, send};

/// How long any single read or write may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Which way an exchange went: the plan's number, the side, the exchange.
pub(super) type Way = (u64, usize, usize);

/// The sides of a plan: appliances as [`super::MODES`] has them, and behind them the way without one.
pub(super) const DIRECT: usize = super::MODES.len();

/// What the origin knows and saw.
pub(super) struct Arena {
    server: RawServer,
    plans: Mutex<HashMap<u64, Arc<Plan>>>,
    seen: Mutex<HashMap<Way, Vec<Verdict>>>,
    wrong: Mutex<Vec<String>>,
    connections: AtomicU64,
    open: AtomicUsize,
    closing: AtomicBool,
}

/// An origin that listens; stops with this value.
pub(super) struct PlanOrigin {
    pub(super) arena: Arc<Arena>,
    pub(super) address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl PlanOrigin {
    pub(super) fn start(lab: &Lab) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let arena = Arc::new(Arena {
            server: RawServer::new(lab)?,
            plans: Mutex::default(),
            seen: Mutex::default(),
            wrong: Mutex::default(),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        });
        let shared = Arc::clone(&arena);
        let acceptor = thread::spawn(move || {
            for socket in listener.incoming() {
                if shared.closing.load(Ordering::Acquire) {
                    return;
                }
                let arena = Arc::clone(&shared);
                arena.open.fetch_add(1, Ordering::AcqRel);
                thread::spawn(move || {
                    if let Ok(socket) = socket {
                        arena.connection(socket);
                    }
                    arena.open.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
        Ok(Self { arena, address, acceptor: Some(acceptor) })
    }
}

impl Drop for PlanOrigin {
    fn drop(&mut self) {
        self.arena.closing.store(true, Ordering::Release);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Arena {
    pub(super) fn announce(&self, plan: &Arc<Plan>) {
        lock(&self.plans).insert(plan.number, Arc::clone(plan));
    }

    /// Connections that still run.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// What became of each request that came; more than one verdict when it was sent again.
    pub(super) fn seen(&self) -> HashMap<Way, Vec<Verdict>> {
        lock(&self.seen).clone()
    }

    /// What may never be and belongs to no plan.
    pub(super) fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    fn connection(&self, socket: TcpStream) {
        let number = self.connections.fetch_add(1, Ordering::AcqRel);
        let cipher = Cipher::ALL[usize::try_from(number % 3).unwrap_or(0)];
        // A caller who vanishes may take the appliance's handshake with it.
        let Ok((reader, mut writer)) = self.server.accept(socket, cipher, PATIENCE) else { return };
        let mut reader = Paced::new(reader);
        let mut buffer = Vec::new();
        loop {
            let head = match Incoming::new(&mut reader, &mut buffer).head() {
                Ok(head) => head,
                Err(error) => {
                    if let Verdict::Wrong(wrong) = cut(&error)
                        && !buffer.is_empty()
                    {
                        lock(&self.wrong).push(format!("what is no request: {wrong}"));
                    }
                    return;
                }
            };
            let result = self.way(&head.start).and_then(|(way, plan)| {
                let exchange = plan.exchanges.get(way.2).context("no such exchange")?;
                let framing = head.request_framing()?;
                reader.like(&exchange.up);
                Ok(self.exchange(&mut reader, &mut buffer, &mut writer, way, exchange, framing))
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return lock(&self.wrong).push(format!("{}: {error:#}", head.start)),
            }
        }
    }

    fn way(&self, start: &str) -> anyhow::Result<(Way, Arc<Plan>)> {
        let name = start.split(' ').nth(1).and_then(|target| target.strip_prefix("/plan/")).context("no plan")?;
        let numbers = name.split('-').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        let [number, side, exchange] = numbers[..] else { anyhow::bail!("{name} is no way") };
        let plan = lock(&self.plans).get(&number).map(Arc::clone).context("nobody announced it")?;
        Ok(((number, usize::try_from(side)?, usize::try_from(exchange)?), plan))
    }

    /// Plays one exchange; whether the connection goes on.
    fn exchange(
        &self,
        reader: &mut Paced,
        buffer: &mut Vec<u8>,
        writer: &mut RawWriter,
        way: Way,
        exchange: &Exchange,
        framing: mtls_appliance_tests::http::Framing,
    ) -> bool {
        let stream = exchange.down.stream(&exchange.answer(), way.1 == DIRECT);
        let answer =
            |writer: &mut RawWriter, held: Option<&dyn Fn() -> bool>| send(writer, &exchange.down, &stream, true, held);
        let (verdict, answered) = if exchange.together {
            let (whole, wait) = mpsc::channel();
            thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    let wait = wait;
                    answer(writer, Some(&|| wait.recv_timeout(PATIENCE).unwrap_or(false)))
                });
                let verdict = receive_body(reader, buffer, framing, &exchange.up);
                let _ = whole.send(matches!(verdict, Verdict::Whole(_)));
                let answered = sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the origin panicked")));
                (verdict, answered)
            })
        } else {
            let verdict = receive_body(reader, buffer, framing, &exchange.up);
            let answered = match &verdict {
                Verdict::Whole(_) => answer(writer, None),
                _ => Err(anyhow::anyhow!("not asked to the end")),
            };
            (verdict, answered)
        };
        lock(&self.seen).entry(way).or_default().push(verdict);
        if answered.is_err() {
            // Not an orderly end, whatever was sent so far.
            let _ = writer.reset();
            return false;
        }
        match exchange.down.end.how {
            How::Stay => true,
            How::Reset => false,
            _ => {
                // Closing with bytes unread would reset the connection.
                let _ = Incoming::new(reader, buffer).to_end();
                false
            }
        }
    }
}

/// One way from a client to the origin.
pub(super) struct Side {
    pub(super) number: usize,
    pub(super) address: SocketAddr,
    pub(super) client: RawClient,
}

impl Side {
    /// Plays the client's part of a plan: what each exchange came to, up to the first that did not come to its end.
    pub(super) fn run(&self, plan: &Plan) -> anyhow::Result<Vec<Verdict>> {
        let (reader, mut writer) =
            self.client.connect(self.address, plan.cipher, plan.receive_buffer, PATIENCE).context("connecting")?;
        let mut reader = Paced::new(reader);
        let mut buffer = Vec::new();
        let mut verdicts = Vec::new();
        for (at, exchange) in plan.exchanges.iter().enumerate() {
            let head = exchange.request(&format!("{}-{}-{at}", plan.number, self.number));
            let method = head.split(' ').next().unwrap_or_default();
            let stream = exchange.up.stream(&head, self.number == DIRECT);
            let verdict = thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    // When the appliance has seen enough it may close; what counts is what is received.
                    let _ = send(&mut writer, &exchange.up, &stream, false, None);
                });
                reader.like(&exchange.down);
                let verdict =
                    receive_answer(&mut reader, &mut buffer, method, &exchange.down, usize::from(exchange.interim));
                ensure!(sender.join().is_ok(), "the client panicked");
                Ok(verdict)
            })?;
            let whole = matches!(verdict, Verdict::Whole(_));
            verdicts.push(verdict);
            if !whole {
                break;
            }
        }
        Ok(verdicts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
