//! The HTTP server: what is served where, to whom, and within which bounds.
//!
//! It looks at the node and changes nothing, keeps no cookie, and answers only under names that a page of
//! another site cannot borrow. Must not know what the figures mean.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, Sleep, interval, sleep};

use super::history::{Ring, STEP};
use super::metrics;
use super::status::Status;
use crate::driver::{Dht, clock};

/// Connections from other machines at a time: a page keeps one or two, a monitoring system one.
const MAX_STRANGERS: usize = 48;
/// Connections of one other address, so that it takes not all of those; a browser keeps six.
const MAX_EACH: usize = 16;
/// Connections from this machine, which strangers cannot take: a supervisor's, or those of a proxy.
const MAX_LOCAL: usize = 64;
/// From the accept, or the first byte of a further request, to the first byte of its answer: one that drips
/// its request must not keep a place that others wait for.
const HEAD: Duration = Duration::from_secs(10);
/// Time after an answer in which a connection is kept; pages and scrapers come again within a minute.
const IDLE: Duration = Duration::from_secs(75);
/// The longest life of a connection: one that drips its bytes must make room some time.
const LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Figures are taken from the node at most this often, however many ask.
const FRESH: Duration = Duration::from_millis(250);
/// What the page may load: its own two files and its own figures, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What is served where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebConfig {
    /// The page and its figures.
    pub status: Option<SocketAddr>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
    /// Names under which the server may be asked, beside `localhost` and IP addresses.
    pub hosts: Vec<String>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve on {addr}: {source}")]
pub struct WebError {
    /// Where.
    pub addr: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    dht: Dht,
    port: u16,
    hosts: Vec<String>,
    history: Mutex<Ring>,
    fresh: Mutex<Option<(Instant, Arc<Figures>)>>,
}

/// The figures of a moment, and their JSON once somebody has asked for it.
#[derive(Debug)]
struct Figures {
    status: Status,
    json: OnceLock<Result<Bytes, String>>,
}

/// Running servers; they end when this is dropped.
#[derive(Debug, Default)]
pub struct Server {
    /// Where the page is, with the port it really got.
    pub status: Option<SocketAddr>,
    /// Where `/metrics` is.
    pub metrics: Option<SocketAddr>,
    tasks: Vec<AbortHandle>,
}

impl Server {
    /// Serves what `config` asks for, of the node behind `dht` that has `port`.
    pub async fn start(config: &WebConfig, dht: Dht, port: u16) -> Result<Self, WebError> {
        let mut server = Self::default();
        if config.status.is_none() && config.metrics.is_none() {
            return Ok(server);
        }
        let shared = Arc::new(Shared {
            dht,
            port,
            hosts: config.hosts.clone(),
            history: Mutex::default(),
            fresh: Mutex::default(),
        });
        let one = config.status == config.metrics;
        if let Some(addr) = config.status {
            server.status = Some(server.bind(addr, router(&shared, true, one)).await?);
            server.tasks.push(tokio::spawn(keep_history(shared.clone())).abort_handle());
        }
        server.metrics = match config.metrics {
            Some(_) if one => server.status,
            Some(addr) => Some(server.bind(addr, router(&shared, false, true)).await?),
            None => None,
        };
        Ok(server)
    }

    async fn bind(&mut self, addr: SocketAddr, router: Router) -> Result<SocketAddr, WebError> {
        let listener = TcpListener::bind(addr).await.map_err(|source| WebError { addr, source })?;
        let bound = listener.local_addr().map_err(|source| WebError { addr, source })?;
        let bounded = Bounded { listener, places: Places::default() };
        self.tasks.push(tokio::spawn(async move { axum::serve(bounded, router).await }).abort_handle());
        Ok(bound)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn keep_history(shared: Arc<Shared>) {
    let mut tick = interval(STEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let traffic = shared.dht.status().borrow().counters.traffic;
        shared.history.lock().await.sample(&traffic);
    }
}

fn router(shared: &Arc<Shared>, page: bool, metrics: bool) -> Router {
    let mut router = Router::new().route("/healthz", get(healthz));
    if page {
        router = router
            .route("/", get(|| async { file("text/html; charset=utf-8", include_str!("page/index.html")) }))
            .route(
                "/page.css",
                get(|| async { file("text/css; charset=utf-8", include_str!("page/page.css")) }),
            )
            .route(
                "/page.js",
                get(|| async { file("text/javascript; charset=utf-8", include_str!("page/page.js")) }),
            )
            .route("/status.json", get(status_json));
    }
    if metrics {
        router = router.route("/metrics", get(metrics_text));
    }
    router.layer(middleware::from_fn_with_state(shared.clone(), guard)).with_state(shared.clone())
}

/// Lets through who asks under an own name, and binds what a browser may do with the answer.
async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response = if is_own_name(request.headers(), request.uri(), &shared.hosts) {
        next.run(request).await
    } else {
        let words = "this name is not one of the server's own; ask by IP address or as localhost, or start \
                     the node with --allow-host NAME\n";
        (StatusCode::MISDIRECTED_REQUEST, words).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// A page elsewhere can make its own name point at this machine (DNS rebinding), and then reads what is
/// served here as its own. It cannot do so with an IP address, nor with `localhost`.
fn is_own_name(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let is_own = |host: &str| {
        let Some(name) = without_port(host) else { return false };
        let literal = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        literal.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || allowed.iter().any(|a| a.eq_ignore_ascii_case(name))
    };
    host.to_str().is_ok_and(is_own) && uri.authority().is_none_or(|a| is_own(a.as_str()))
}

fn without_port(host: &str) -> Option<&str> {
    let after = host.rfind(']').map_or(0, |at| at + 1);
    match host[after..].rfind(':') {
        Some(at) => host[after + at + 1..].parse::<u16>().is_ok().then(|| &host[..after + at]),
        None => Some(host),
    }
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// The figures, not older than [`FRESH`]; nothing when the node has stopped.
async fn figures(shared: &Shared) -> Option<Arc<Figures>> {
    let mut fresh = shared.fresh.lock().await;
    let now = clock::now();
    if let Some((at, figures)) = &*fresh
        && now.saturating_duration_since(*at) < FRESH
    {
        return Some(figures.clone());
    }
    let report = shared.dht.report().await?;
    let words = shared.dht.status().borrow().clone();
    let mut status = Status::new(&report, &words, shared.port);
    status.history = shared.history.lock().await.lines();
    let figures = Arc::new(Figures { status, json: OnceLock::new() });
    *fresh = Some((now, figures.clone()));
    Some(figures)
}

fn gone() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the node has stopped\n").into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let Some(figures) = figures(&shared).await else { return gone() };
    let status = &figures.status;
    let code = if status.health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", status.health.words)).into_response()
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let Some(figures) = figures(&shared).await else { return gone() };
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&figures.status)).into_response()
}

async fn status_json(State(shared): State<Arc<Shared>>) -> Response {
    let Some(figures) = figures(&shared).await else { return gone() };
    let json = figures.json.get_or_init(|| {
        serde_json::to_vec(&figures.status).map(Bytes::from).map_err(|error| error.to_string())
    });
    match json.clone() {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error).into_response(),
    }
}

/// Who may connect: this machine has places of its own, everyone else shares the rest.
#[derive(Debug)]
struct Places {
    local: Arc<Semaphore>,
    strangers: Arc<std::sync::Mutex<BTreeMap<IpAddr, usize>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { local: Arc::new(Semaphore::new(MAX_LOCAL)), strangers: Arc::default() }
    }
}

impl Places {
    /// A place for a connection from `ip`. This machine waits for one; a stranger is turned away, since
    /// whoever waits here holds up everyone behind.
    async fn take(&self, ip: IpAddr) -> Option<Place> {
        let ip = ip.to_canonical();
        if ip.is_loopback() {
            return self
                .local
                .clone()
                .acquire_owned()
                .await
                .ok()
                .map(|permit| Place::Local { _permit: permit });
        }
        let from = network(ip);
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = strangers.get(&from).copied().unwrap_or(0);
        if of_it >= MAX_EACH || strangers.values().sum::<usize>() >= MAX_STRANGERS {
            return None;
        }
        strangers.insert(from, of_it + 1);
        Some(Place::Stranger { from, strangers: self.strangers.clone() })
    }
}

/// Who counts as one: an IPv6 host has all of its /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
    }
}

/// A place, free again when this is dropped.
#[derive(Debug)]
enum Place {
    Local { _permit: OwnedSemaphorePermit },
    Stranger { from: IpAddr, strangers: Arc<std::sync::Mutex<BTreeMap<IpAddr, usize>>> },
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self::Stranger { from, strangers } = self else { return };
        let mut strangers = strangers.lock().unwrap_or_else(PoisonError::into_inner);
        match strangers.get_mut(from) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(strangers.remove(from)),
        }
    }
}

/// A listener that takes a connection only when there is a place for it.
struct Bounded {
    listener: TcpListener,
    places: Places,
}

impl axum::serve::Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        loop {
            // axum's own accept waits out errors such as too many open files.
            let (stream, addr) = axum::serve::Listener::accept(&mut self.listener).await;
            let Some(place) = self.places.take(addr.ip()).await else { continue };
            let (idle, life) = (Box::pin(sleep(HEAD)), Box::pin(sleep(LIFETIME)));
            return (Guarded { stream, asking: true, idle, life, _place: place }, addr);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself when no request is asked in time, or when it has lived long enough.
struct Guarded {
    stream: TcpStream,
    /// A request has begun and nothing of its answer is written: more of it buys no time.
    asking: bool,
    idle: Pin<Box<Sleep>>,
    life: Pin<Box<Sleep>>,
    _place: Place,
}

impl Guarded {
    fn unless_over<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let over = self.idle.as_mut().poll(cx).is_ready() || self.life.as_mut().poll(cx).is_ready();
        if over { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { poll }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if poll.is_ready() && !self.asking {
            self.asking = true;
            self.idle.as_mut().reset((clock::now() + HEAD).into());
        }
        self.unless_over(poll, cx)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if poll.is_ready() {
            self.asking = false;
            self.idle.as_mut().reset((clock::now() + IDLE).into());
        }
        self.unless_over(poll, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_address_takes_every_place_and_none_takes_those_of_this_machine() {
        let places = Places::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut held = Vec::new();
        for _ in 0..MAX_EACH {
            held.push(places.take(ip("192.0.2.1")).await.unwrap());
        }
        assert!(places.take(ip("::ffff:192.0.2.1")).await.is_none(), "the same address");
        for host in 0..MAX_EACH {
            held.push(places.take(ip(&format!("2001:db8::{host:x}"))).await.unwrap());
        }
        assert!(places.take(ip("2001:db8::ffff")).await.is_none(), "the same network");
        while let Some(place) = places.take(ip(&format!("192.0.2.{}", held.len()))).await {
            held.push(place);
        }
        assert_eq!(held.len(), MAX_STRANGERS);
        let mut local = Vec::new();
        for host in ["127.0.0.1", "::1", "127.0.0.2"] {
            local.push(places.take(ip(host)).await.unwrap());
        }
        held.clear();
        assert!(places.strangers.lock().unwrap().is_empty() && places.take(ip("192.0.2.1")).await.is_some());
        drop(local);
        assert_eq!(places.local.available_permits(), MAX_LOCAL);
    }

    #[test]
    fn only_names_that_cannot_be_rebound_are_own() {
        let allowed = vec!["node.example".to_owned()];
        let is_own = |hosts: &[&str], uri: &str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
            }
            is_own_name(&headers, &uri.parse().unwrap(), &allowed)
        };
        for host in ["127.0.0.1", "127.0.0.1:6880", "[::1]:1", "[::1]", "LocalHost:80", "node.example:6880"] {
            assert!(is_own(&[host], "/"), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "", "[::1", "localhost:x"]
        {
            assert!(!is_own(&[host], "/"), "{host}");
        }
        assert!(!is_own(&[], "/") && !is_own(&["127.0.0.1", "evil.example"], "/"));
        assert!(
            !is_own(&["127.0.0.1"], "http://evil.example/") && is_own(&["127.0.0.1"], "http://127.0.0.1/")
        );
    }
}
