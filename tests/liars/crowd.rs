//! Liars on loopback, each at an address of its own: they wait to be dialled, and dial where they are not.

use std::net::{SocketAddr, TcpListener as Listener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dhtget::id::Id160;
use dhtget::wire::peer::Reserved;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::misdeeds::Misdeed;
use crate::stage::Stage;
use crate::wire::Wire;

/// Who has been thrown out comes back after this long.
const COME_BACK: Duration = Duration::from_millis(300);

/// What one liar has come to.
#[derive(Debug)]
pub struct Liar {
    pub misdeed: Misdeed,
    pub addr: SocketAddr,
    /// Connections that stand.
    open: AtomicUsize,
    /// Handshakes that the victim has answered.
    pub sessions: AtomicUsize,
}

impl Liar {
    pub fn is_connected(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }
}

struct Shared {
    stage: Arc<Stage>,
    victim: OnceLock<SocketAddr>,
    at_rest: AtomicBool,
    over: AtomicBool,
}

/// All liars of a stage, in a thread of their own.
pub struct Crowd {
    pub liars: Vec<Arc<Liar>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    pub fn start(stage: &Arc<Stage>, misdeeds: impl Iterator<Item = Misdeed>) -> Self {
        let shared = Arc::new(Shared {
            stage: stage.clone(),
            victim: OnceLock::new(),
            at_rest: AtomicBool::new(false),
            over: AtomicBool::new(false),
        });
        let (mut liars, mut listeners) = (Vec::new(), Vec::new());
        for (number, misdeed) in misdeeds.enumerate() {
            let listener = listen(([127, 0, 1 + (number / 250) as u8, 1 + (number % 250) as u8], 0).into());
            let (addr, open, sessions) = (listener.local_addr().unwrap(), 0.into(), 0.into());
            liars.push(Arc::new(Liar { misdeed, addr, open, sessions }));
            listeners.push(listener);
        }
        let (all, for_thread) = (liars.clone(), shared.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            for (liar, listener) in all.into_iter().zip(listeners) {
                local.spawn_local(live(liar, listener, for_thread.clone()));
            }
            runtime.block_on(local.run_until(async {
                while !for_thread.over.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }));
        });
        Self { liars, shared, thread: Some(thread) }
    }

    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.liars.iter().map(|liar| liar.addr).collect()
    }

    /// From now on they dial.
    pub fn attack(&self, victim: SocketAddr) {
        self.shared.victim.set(victim).unwrap();
    }

    /// Waits until each has had its turn.
    pub fn until_all_have_come(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until && self.liars.iter().any(|l| l.sessions.load(Ordering::Relaxed) == 0) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Nobody comes back any more; who is still connected after `patience`, of those who must not be?
    pub fn rest(&self, patience: Duration, may_stay: impl Fn(Misdeed) -> bool) -> Vec<Misdeed> {
        self.shared.at_rest.store(true, Ordering::Relaxed);
        let until = Instant::now() + patience;
        loop {
            let here = self.liars.iter().filter(|l| l.is_connected() && !may_stay(l.misdeed));
            let here: Vec<Misdeed> = here.map(|l| l.misdeed).collect();
            if here.is_empty() || Instant::now() > until {
                return here;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Listens where it can also dial from: a liar that is banned has one address, not thousands.
fn listen(addr: SocketAddr) -> Listener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    socket.listen(16).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

async fn live(liar: Arc<Liar>, listener: Listener, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.ok().map(|(stream, _)| stream),
            () = tokio::time::sleep(COME_BACK) => dial(&liar, &shared).await,
        };
        if let Some(stream) = stream.filter(|_| !shared.at_rest.load(Ordering::Relaxed)) {
            lie(&liar, stream, &shared).await;
            liar.open.store(0, Ordering::Relaxed);
        }
    }
}

async fn dial(liar: &Liar, shared: &Shared) -> Option<TcpStream> {
    let victim = shared.victim.get().filter(|_| !shared.at_rest.load(Ordering::Relaxed))?;
    let socket = TcpSocket::new_v4().ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.set_reuseport(true).ok()?;
    socket.bind(liar.addr).ok()?;
    socket.connect(*victim).await.ok()
}

/// One connection, to its end.
async fn lie(liar: &Liar, mut stream: TcpStream, shared: &Shared) {
    let stage = &shared.stage;
    if liar.misdeed.is_before_the_handshake() {
        liar.open.store(1, Ordering::Relaxed);
        liar.sessions.fetch_add(1, Ordering::Relaxed);
        return Misdeed::dawdle(&mut stream, stage).await;
    }
    let mut name = *b"-XX0000-liar________";
    name[12..16].copy_from_slice(&match liar.addr.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => [0; 4],
    });
    let greeting = Wire::greet_as(Id160(name), stream, &stage.info, Reserved::OURS);
    let Ok(Some(wire)) = tokio::time::timeout(Duration::from_secs(5), greeting).await else { return };
    liar.open.store(1, Ordering::Relaxed);
    liar.sessions.fetch_add(1, Ordering::Relaxed);
    liar.misdeed.play(wire, stage).await;
}
