//! A whole gateway in this process, on free ports, and a plain HTTP client that shows every byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use spectra_backends::{Backend, Facts, Fleet, Member};
use spectra_config::Config;
use spectra_gateway::{Gateway, Listeners, Live, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Nothing here takes so long: a test that waits longer has found a hang.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway. Dropping it stops it without draining; `stop` drains.
#[derive(Debug)]
pub struct Spectra {
    pub main: SocketAddr,
    pub admin: SocketAddr,
    pub live: Arc<Live>,
    /// What a reload reads.
    file: Arc<Mutex<String>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<bool>,
}

impl Spectra {
    /// Starts with this config; its listeners are set to free ports of loopback.
    ///
    /// # Errors
    /// As `Config::parse` and `Gateway::build`.
    pub async fn start(config: &str) -> anyhow::Result<Self> {
        let config = Config::parse(config, "test.toml", &|_| None)?;
        Self::with(config).await
    }

    /// As `start`, from a config that was read already.
    ///
    /// # Errors
    /// As `Gateway::build`.
    pub async fn with(config: Config) -> anyhow::Result<Self> {
        Self::run(Gateway::build(on_free_ports(config), None)?).await
    }

    /// As `start`, on these backends instead of the config's own of the same names.
    ///
    /// # Errors
    /// As `Gateway::with_fleet`.
    pub async fn on(config: &str, backends: impl IntoIterator<Item = (&'static str, Backend)>) -> anyhow::Result<Self> {
        let config = Config::parse(config, "test.toml", &|_| None)?;
        let facts = Facts { vision: false, n_max: 8, ..Facts::open() };
        let member = |(name, backend): (&str, Backend)| (name.to_owned(), Member { backend, facts: Arc::new(facts.clone()) });
        let fleet = Fleet::new(backends.into_iter().map(member).collect());
        Self::run(Gateway::with_fleet(on_free_ports(config), fleet)?).await
    }

    async fn run(gateway: Gateway) -> anyhow::Result<Self> {
        drop(rustls::crypto::ring::default_provider().install_default());
        let listeners = Listeners::bind(&gateway).await?;
        let file = Arc::new(Mutex::new(gateway.config.source.clone()));
        let read = {
            let file = file.clone();
            move || Ok(on_free_ports(Config::parse(&file.lock(), "test.toml", &|_| None)?))
        };
        let live = Arc::new(Live::new(Arc::new(gateway), Box::new(read)));
        let (main, admin) = (listeners.main.local_addr()?, listeners.admin.local_addr()?);
        let (stop, stopped) = oneshot::channel();
        let running = Server::new(live.clone(), listeners).run(async move { drop(stopped.await) });
        Ok(Self { main, admin, live, file, stop: Some(stop), server: tokio::spawn(running) })
    }

    /// Base URL for OpenAI clients.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.main)
    }

    /// Begins to drain; true if every request ended by itself.
    ///
    /// # Errors
    /// If the server panicked or does not end.
    pub async fn stop(mut self) -> anyhow::Result<bool> {
        self.begin_stop();
        let ended = tokio::time::timeout(PATIENCE, &mut self.server).await.context("the server does not end")??;
        Ok(ended)
    }

    /// Tells the server to drain and returns at once.
    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// POSTs a JSON body to the main listener and reads the whole answer.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn post(&self, path: &str, body: &str) -> anyhow::Result<Answered> {
        exchange(self.main, &post(path, "", body)).await
    }

    /// As `post`, with further header lines, each ended by `\r\n`.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn post_with(&self, path: &str, headers: &str, body: &str) -> anyhow::Result<Answered> {
        exchange(self.main, &post(path, headers, body)).await
    }

    /// Puts this text in the place of the config and has the gateway reload it.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn reload(&self, config: &str) -> anyhow::Result<Answered> {
        config.clone_into(&mut self.file.lock());
        self.reload_with("").await
    }

    /// POSTs to `/-/reload` with further header lines, each ended by `\r\n`.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn reload_with(&self, headers: &str) -> anyhow::Result<Answered> {
        exchange(self.admin, &post("/-/reload", headers, "")).await
    }

    /// GETs from the main listener.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answered> {
        exchange(self.main, get(path).as_bytes()).await
    }

    /// GETs from the admin listener.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn admin(&self, path: &str) -> anyhow::Result<Answered> {
        exchange(self.admin, get(path).as_bytes()).await
    }

    /// The value of one series, named as in the exposition; 0 if it is not there.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn metric(&self, series: &str) -> anyhow::Result<f64> {
        let text = self.admin("/metrics").await?.text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// The sum over all series of a family whose labels contain `with`.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn metric_sum(&self, family: &str, with: &str) -> anyhow::Result<f64> {
        let text = self.admin("/metrics").await?.text();
        let of = |line: &str| {
            let rest = line.strip_prefix(family)?;
            (rest.starts_with(['{', ' ']) && rest.contains(with)).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        Ok(text.lines().filter_map(of).sum())
    }
}

impl Drop for Spectra {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A config of hosted backends `(name, base URL, more lines of its table)`, and one route `local` that asks them in this
/// order. None of their breakers opens, no deadline is near; `route` are more lines of the route, `more` is the rest.
#[must_use]
pub fn hosted(backends: &[(&str, String, &str)], route: &str, more: &str) -> String {
    let mut text = String::new();
    for (name, base_url, lines) in backends {
        text += &format!(
            "[backends.{name}]\nbreaker = {{ failure_share = 2.0 }}\n{lines}\n[backends.{name}.openai]\nbase_url = \"{base_url}\"\nmodel = \"{name}\"\n"
        );
    }
    let names: Vec<String> = backends.iter().map(|(name, ..)| format!("\"{name}\"")).collect();
    text += &format!("[routes.local]\nladder = [{}]\n{route}\n[router]\nlocal = \"local\"\nstrong = \"local\"\n{more}\n", names.join(", "));
    text
}

/// Waits until a question about the gateway is answered with yes.
///
/// # Errors
/// If it does not come to that.
pub async fn until(what: &str, mut yes: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let asking = async {
        while !yes().await? {
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, asking).await.with_context(|| format!("it does not come to: {what}"))?
}

fn on_free_ports(mut config: Config) -> Config {
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.admin.listen = config.server.listen;
    config
}

/// The bytes of a POST whose connection closes afterwards.
#[must_use]
pub fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

/// Sends bytes as they are and reads until the peer closes.
///
/// # Errors
/// Of the connection, and if the peer does not answer in time.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<Answered> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        let mut all = Vec::new();
        // A peer that refuses a large body may reset the connection after its answer.
        match stream.read_to_end(&mut all).await {
            Err(error) if all.is_empty() => Err(error),
            _ => Ok(all),
        }
    };
    let all = tokio::time::timeout(PATIENCE, talk).await.context("no answer in time")??;
    Answered::parse(&all)
}

/// One HTTP/1.1 answer, its chunked coding undone.
#[derive(Clone, Debug)]
pub struct Answered {
    pub status: u16,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The answer was complete: all bytes that its headers announced, or the last chunk.
    pub complete: bool,
}

impl Answered {
    fn parse(all: &[u8]) -> anyhow::Result<Self> {
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").context("no end of headers")?;
        let head = std::str::from_utf8(&all[..end])?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &all[end + 4..];
        let of = |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let (body, complete) = if of("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            unchunk(rest)
        } else {
            let announced = of("content-length").and_then(|length| length.parse::<usize>().ok());
            (rest.to_vec(), announced.is_none_or(|length| length == rest.len()))
        };
        Ok(Self { status, headers, body, complete })
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// The `data:` of each event, comments left out.
    #[must_use]
    pub fn events(&self) -> Vec<String> {
        self.text()
            .split("\n\n")
            .filter_map(|event| event.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned))
            .collect()
    }

    /// Checks the error object's form and gives its status, type, param and code.
    ///
    /// # Errors
    /// If the body is not exactly one error object with all four keys.
    pub fn error(&self) -> anyhow::Result<(u16, String, Option<String>, Option<String>)> {
        let body = self.json()?;
        let error = body["error"].as_object().with_context(|| format!("no error object: {body}"))?;
        let keys: Vec<&str> = error.keys().map(String::as_str).collect();
        anyhow::ensure!(keys == ["message", "type", "param", "code"], "{body}");
        anyhow::ensure!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        let text = |key: &str| error[key].as_str().map(str::to_owned);
        for key in ["param", "code"] {
            anyhow::ensure!(error[key].is_null() || error[key].as_str().is_some_and(|text| text != "None"), "{body}");
        }
        Ok((self.status, text("type").context("type")?, text("param"), text("code")))
    }
}

/// The bytes behind a chunked coding, and whether its last chunk was there.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, false) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let Some(size) = size else { return (body, false) };
        if size == 0 {
            return (body, true);
        }
        let Some(data) = rest.get(end + 2..end + 2 + size) else { return (body, false) };
        body.extend_from_slice(data);
        rest = rest.get(end + 4 + size..).unwrap_or_default();
    }
}
