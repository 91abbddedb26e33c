//! The HTTP server: what is served where, to whom, and within which bounds.
//!
//! It looks at the node and changes nothing, keeps no cookie, and answers only under names that a page of
//! another site cannot borrow. Must not know what the figures mean.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
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

/// Connections at a time: a page keeps one or two, a monitoring system one.
const MAX_CONNECTIONS: usize = 64;
/// Silence after which a connection is closed; pages and scrapers come again within a minute.
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
    fresh: Mutex<Option<(Instant, Arc<Status>)>>,
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
        let bounded = Bounded { listener, free: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
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
async fn figures(shared: &Shared) -> Option<Arc<Status>> {
    let mut fresh = shared.fresh.lock().await;
    let now = clock::now();
    if let Some((at, status)) = &*fresh
        && now.saturating_duration_since(*at) < FRESH
    {
        return Some(status.clone());
    }
    let report = shared.dht.report().await?;
    let words = shared.dht.status().borrow().clone();
    let mut status = Status::new(&report, &words, shared.port);
    status.history = shared.history.lock().await.lines();
    let status = Arc::new(status);
    *fresh = Some((now, status.clone()));
    Some(status)
}

fn gone() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the node has stopped\n").into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let Some(status) = figures(&shared).await else { return gone() };
    let code = if status.health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", status.health.words)).into_response()
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let Some(status) = figures(&shared).await else { return gone() };
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&status)).into_response()
}

async fn status_json(State(shared): State<Arc<Shared>>) -> Response {
    let Some(status) = figures(&shared).await else { return gone() };
    match serde_json::to_vec(&*status) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A listener that takes a connection only when there is room for one.
struct Bounded {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Guarded;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guarded, SocketAddr) {
        let permit = self.free.clone().acquire_owned().await.ok();
        // axum's own accept waits out errors such as too many open files.
        let (stream, addr) = axum::serve::Listener::accept(&mut self.listener).await;
        let (idle, life) = (Box::pin(sleep(IDLE)), Box::pin(sleep(LIFETIME)));
        (Guarded { stream, idle, life, _permit: permit }, addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself when nothing comes any more, or when it has lived long enough.
struct Guarded {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    life: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Guarded {
    fn on_progress<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.idle.as_mut().reset((clock::now() + IDLE).into());
        }
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
        self.on_progress(poll, cx)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.on_progress(poll, cx)
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
