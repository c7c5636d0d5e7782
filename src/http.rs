//! One request to the trace server, and what its answer means. The only file that names minreq.

mod answer;
mod body;
mod lookup;
pub(crate) mod proxy;
pub(crate) mod retry_after;
pub(crate) mod server_url;

use std::fmt;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub(crate) use self::answer::{Answer, retry, unanswered};
use self::answer::{Key, MAX_QUOTE, final_answer, judge, quote};
use self::body::read_body;
use self::lookup::Lookup;
use self::server_url::{ServerUrl, check_key, encode_path, holds_key};
use crate::base64;
use crate::error::Error;

/// minreq takes the length of each header line off this and panics, or in a release build loses
/// the limit, when one ends within two bytes of it. Far above what servers send, so that only a
/// hostile one gets there.
const MAX_HEADERS: usize = 64 * 1024;
/// The longest timeout that is passed on.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Where requests go, and with which key. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    /// Without a `/` at the end.
    url: String,
    https: bool,
    key: Option<Key>,
    /// Whole seconds, which is all that minreq knows.
    timeout: Duration,
    /// `None`: it is the proxy that looks the name up.
    lookup: Option<Arc<Lookup>>,
    /// What to add when no connection could be had.
    hint: String,
    #[cfg(feature = "proxy")]
    proxy: Option<minreq::Proxy>,
}

/// One `POST`.
pub(crate) struct Request {
    /// Begins with `/`. What may not stand in a path is percent-encoded on the way; `%` is taken
    /// to be encoded already.
    pub path: String,
    pub body: Body,
    /// Extra headers. One whose value holds more than printable ASCII is left out.
    pub headers: Vec<(&'static str, String)>,
}

pub(crate) enum Body {
    Json(Vec<u8>),
    Multipart { boundary: String, bytes: Vec<u8> },
}

impl Body {
    pub fn len(&self) -> usize {
        match self {
            Body::Json(bytes) | Body::Multipart { bytes, .. } => bytes.len(),
        }
    }
}

impl Server {
    /// Checks everything that can be checked without a connection. `timeout` is for one whole
    /// request and is rounded up to seconds.
    pub(crate) fn new(url: &str, api_key: Option<&str>, timeout: Duration) -> Result<Self, Error> {
        Self::with_env(url, api_key, timeout, &|name| std::env::var(name).ok())
    }

    fn with_env(
        url: &str,
        api_key: Option<&str>,
        timeout: Duration,
        env: proxy::Env,
    ) -> Result<Self, Error> {
        let key = api_key.map(checked).transpose()?;
        let place = ServerUrl::parse(url)?;
        if api_key.is_some_and(|key| holds_key(&place.text, key)) {
            return Err(Error::Config(
                "the server URL cannot be used: it holds the API key, which would be in every \
                 message; set it as in https://trace.wandb.ai"
                    .to_owned(),
            ));
        }
        if place.https && !cfg!(any(feature = "https", feature = "https-native-tls")) {
            return Err(Error::Config(format!(
                "the server URL {} needs TLS and this build has none: build with the feature \
                 `https` or `https-native-tls`",
                place.text
            )));
        }
        let found = proxy::lookup(place.https, &place.host, place.port, env);
        let hint = match &found {
            Some((variable, _)) if cfg!(feature = "proxy") => format!("; {variable} is in use"),
            Some((variable, _)) => {
                format!("; {variable} is set, but this build has no proxies (feature `proxy`)")
            }
            None => String::new(),
        };
        let is_proxied = cfg!(feature = "proxy") && found.is_some();
        Ok(Server(Arc::new(Inner {
            lookup: (!is_proxied).then(|| Lookup::new(&place.host, place.port)),
            #[cfg(feature = "proxy")]
            proxy: usable_proxy(found, &place, env)?,
            url: place.text,
            https: place.https,
            key,
            timeout: whole_seconds(timeout),
            hint,
        })))
    }

    /// Where requests go, without a `/` at the end. It holds no secret.
    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    /// Sends it and waits for the answer, not much longer than the timeout. After a timeout
    /// minreq's own thread may still deliver it.
    pub(crate) fn send(&self, request: Request) -> Answer {
        let url = format!("{}{}", self.0.url, encode_path(&request.path));
        let deadline = Instant::now() + self.0.timeout;
        let lookup = self.0.lookup.as_ref();
        if lookup.is_some_and(|lookup| !lookup.is_through(deadline)) {
            return retry(format!(
                "cannot reach {url}: the server's name is still being looked up after {} s",
                self.0.timeout.as_secs()
            ));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let prepared = self.prepare(&url, request, whole_seconds(left));
        // It panics when it gets no thread, and over some headers.
        match catch_unwind(AssertUnwindSafe(|| prepared.send_lazy())) {
            Ok(Ok(response)) => self.answered(&url, response, deadline),
            Ok(Err(error)) => self.failed(&url, &error),
            Err(_) => retry(format!(
                "the request to {url} could not be made or its answer not be read (the HTTP \
                 client panicked)"
            )),
        }
    }

    fn prepare(&self, url: &str, request: Request, timeout: Duration) -> minreq::Request {
        let (content_type, body) = match request.body {
            Body::Json(bytes) => ("application/json".to_owned(), bytes),
            Body::Multipart { boundary, bytes } => {
                (format!("multipart/form-data; boundary={boundary}"), bytes)
            }
        };
        let mut prepared = minreq::post(url)
            .with_timeout(timeout.as_secs())
            // A redirect would take the key along.
            .with_follow_redirects(false)
            .with_max_headers_size(MAX_HEADERS)
            .with_header(
                "User-Agent",
                concat!("weave-wal/", env!("CARGO_PKG_VERSION")),
            )
            .with_header("Accept", "application/json")
            .with_header("Connection", "close")
            .with_header("Content-Type", content_type);
        if let Some(key) = &self.0.key {
            prepared = prepared.with_header("Authorization", format!("Basic {}", key.encoded));
        }
        for (name, value) in request.headers {
            if value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                prepared = prepared.with_header(name, value);
            }
        }
        #[cfg(feature = "proxy")]
        if let Some(proxy) = &self.0.proxy {
            prepared = prepared.with_proxy(proxy.clone());
        }
        prepared.with_body(body)
    }

    fn answered(&self, url: &str, response: minreq::ResponseLazy, deadline: Instant) -> Answer {
        let status = response.status_code;
        // minreq's own invention, for a closed connection and for what is not HTTP.
        if status == 503 && response.reason_phrase == "Server did not provide a status line" {
            return unanswered(format!(
                "{url} closed the connection or did not answer in HTTP"
            ));
        }
        let header = |wanted| {
            let mut headers = response.headers.iter();
            headers.find_map(|(name, value)| (name == wanted).then_some(value.as_str()))
        };
        // By the server's clock, if it tells: ours may be wrong.
        let now = header("date").and_then(retry_after::date);
        let now = now.unwrap_or_else(SystemTime::now);
        let after = header("retry-after").and_then(|value| retry_after::parse(value, now));
        // These have no body; waiting for one would be waiting for the connection to close.
        let body = match status {
            204 | 304 => Vec::new(),
            _ => read_body(response, self.0.https, deadline),
        };
        let key = self.0.key.as_ref();
        match status {
            // To minreq an interim answer is the answer, and the real one is its body.
            100..=199 => match final_answer(&body) {
                Some((status, body)) => judge(key, url, status, body, None),
                None => retry(format!("{url} gave an interim answer only ({status})")),
            },
            _ => judge(key, url, status, &body, after),
        }
    }

    /// There was no answer at all.
    fn failed(&self, url: &str, error: &minreq::Error) -> Answer {
        use minreq::Error as Failed;
        let says = quote(self.0.key.as_ref(), error.to_string().as_bytes(), MAX_QUOTE);
        let hint = &self.0.hint;
        let pause = |why: String| Answer::Pause { why, status: None };
        match error {
            Failed::IoError(io) if is_timeout(io.kind()) => {
                if let Some(lookup) = &self.0.lookup {
                    lookup.suspect();
                }
                unanswered(format!(
                    "no answer from {url} within {} s{hint}",
                    self.0.timeout.as_secs()
                ))
            }
            Failed::InvalidProxyCreds | Failed::BadProxyCreds => pause(format!(
                "the proxy refused its credentials{hint}: check them; everything is kept"
            )),
            Failed::BadProxy | Failed::ProxyConnect => {
                retry(format!("the proxy opened no tunnel to {url}{hint}"))
            }
            Failed::InvalidProtocol
            | Failed::PunycodeFeatureNotEnabled
            | Failed::PunycodeConversionFailed
            | Failed::HttpsFeatureNotEnabled => pause(format!(
                "{url} cannot be used: {says}; check the server URL; everything is kept"
            )),
            _ if self.0.https && is_tls_fault(error) => pause(format!(
                "no secure connection to {url}: {says}; check the server URL and the \
                 certificate; everything is kept"
            )),
            Failed::HeadersOverflow
            | Failed::StatusLineOverflow
            | Failed::InvalidUtf8InResponse
            | Failed::MalformedContentLength => {
                retry(format!("{url} did not answer in proper HTTP ({says})"))
            }
            // minreq reads no answer before all was written: a server that refuses a large
            // request early looks like this too.
            Failed::IoError(io) if is_broken(io.kind()) => {
                unanswered(format!("the connection to {url} broke ({says})"))
            }
            _ => retry(format!("cannot reach {url}: {says}{hint}")),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.0.key.as_ref().map(|_| format_args!("<hidden>"));
        f.debug_struct("Server")
            .field("url", &self.0.url)
            .field("api_key", &hidden)
            .field("timeout", &self.0.timeout)
            .finish_non_exhaustive()
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

fn is_broken(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        kind,
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

/// A certificate, a name or a protocol that does not fit, rather than a broken connection.
fn is_tls_fault(error: &minreq::Error) -> bool {
    match error {
        // What rustls says about the other side, and about a name that no certificate can have.
        minreq::Error::IoError(io) => {
            matches!(io.kind(), ErrorKind::InvalidData | ErrorKind::Other)
        }
        #[cfg(feature = "https")]
        minreq::Error::RustlsCreateConnection(_) => true,
        // A connection that broke has the I/O error below, or an end of file that is only said.
        #[cfg(all(feature = "https-native-tls", not(feature = "https")))]
        minreq::Error::NativeTlsCreateConnection(fault) => {
            let below = std::error::Error::source(fault);
            let mut causes = std::iter::successors(below, |cause| cause.source());
            !fault.to_string().contains("unexpected EOF")
                && !causes.any(|cause| cause.is::<std::io::Error>())
        }
        _ => false,
    }
}

fn whole_seconds(timeout: Duration) -> Duration {
    let seconds = timeout
        .as_secs()
        .saturating_add(u64::from(timeout.subsec_nanos() > 0));
    Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT.as_secs()))
}

#[cfg(feature = "proxy")]
fn usable_proxy(
    found: Option<(&'static str, String)>,
    place: &ServerUrl,
    env: proxy::Env,
) -> Result<Option<minreq::Proxy>, Error> {
    let Some((variable, value)) = found else {
        // Without a proxy of its own a request gets minreq's choice; nothing turns that off.
        return match proxy::read_by_minreq(place.https, env) {
            None => Ok(None),
            Some(variable) => Err(Error::Config(format!(
                "{} is to be reached without a proxy (NO_PROXY, or {variable} is empty), but the \
                 HTTP client would still use {variable}: unset it, or use its upper-case name",
                place.host
            ))),
        };
    };
    match minreq::Proxy::new(proxy::address(variable, &value)?) {
        Ok(proxy) => Ok(Some(proxy)),
        Err(_) => Err(Error::Config(format!(
            "{variable} cannot be used as a proxy: set it to http://[user:password@]host:port"
        ))),
    }
}

fn checked(key: &str) -> Result<Key, Error> {
    check_key(key)?;
    Ok(Key {
        plain: key.to_owned(),
        encoded: base64::encode(format!("api:{key}").as_bytes()),
    })
}

#[cfg(test)]
mod tests;
