//! The proxies under comparison: how each is started, and what it used.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Direct,
    Nginx,
    Floor,
    /// As shipped: score, verification, metrics, page, ledger, log.
    Spectra,
    /// The ladder of features, each with all before it: a named route, unjudged, nothing counted, kept or logged …
    Bare,
    /// … with the route chosen by score
    Scored,
    /// … with the answer verified: all of the work and nothing that watches it
    Verified,
    /// … and held until it is whole, on this rung only
    Held,
    /// … with metrics and the page's feed
    Counted,
    /// … with a ledger
    Kept,
    /// … with a log line a request; as shipped
    Logged,
    /// … with traces to a collector: everything that watches
    Traced,
}

pub struct Peer {
    pub kind: Kind,
    pub address: SocketAddr,
    child: Option<Child>,
    _folder: TempDir,
}

pub const LADDER: [Kind; 8] = [Kind::Bare, Kind::Scored, Kind::Verified, Kind::Held, Kind::Counted, Kind::Kept, Kind::Logged, Kind::Traced];
const OTHERS: [Kind; 4] = [Kind::Direct, Kind::Nginx, Kind::Floor, Kind::Spectra];

impl Kind {
    pub fn parse(word: &str) -> Option<Self> {
        OTHERS.into_iter().chain(LADDER).find(|kind| kind.name() == word)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Floor => "floor",
            Self::Spectra => "spectra",
            Self::Bare => "bare",
            Self::Scored => "scored",
            Self::Verified => "verified",
            Self::Held => "held",
            Self::Counted => "counted",
            Self::Kept => "kept",
            Self::Logged => "logged",
            Self::Traced => "traced",
        }
    }

    /// What clients ask for: a route by name costs no score.
    pub fn model(self) -> &'static str {
        if self == Self::Bare { "strong" } else { "auto" }
    }

    /// The program is on this machine.
    pub fn there(self) -> bool {
        self != Self::Nginx || Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok()
    }

    fn config(self, own: SocketAddr, upstream: SocketAddr, folder: &str) -> String {
        let verified = !matches!(self, Self::Bare | Self::Scored);
        let held = if self == Self::Held { r#""whole""# } else { "{ first = 1 }" };
        let watch = matches!(self, Self::Spectra | Self::Counted | Self::Kept | Self::Logged | Self::Traced);
        let kept = matches!(self, Self::Spectra | Self::Kept | Self::Logged | Self::Traced);
        let ledger = if kept { format!("{folder}/ledger.sqlite") } else { String::new() };
        let level = if matches!(self, Self::Spectra | Self::Logged | Self::Traced) { "info" } else { "error" };
        let traces = if self == Self::Traced { format!("otlp = \"http://{upstream}\"") } else { String::new() };
        format!(
            r#"
            [server]
            listen = "{own}"
            [admin]
            listen = "127.0.0.1:0"
            watch = {watch}
            [limits]
            in_flight = 4096
            [accounting]
            ledger = "{ledger}"
            [tracing]
            level = "{level}"
            {traces}
            [backends.hosted]
            price = {{ input = 2.0, output = 8.0 }}
            concurrency = 1024
            [backends.hosted.openai]
            base_url = "http://{upstream}/v1"
            model = "m"
            [routes.local]
            ladder = ["hosted"]
            hold = {held}
            [routes.strong]
            ladder = ["hosted"]
            hold = {held}
            [verify]
            enabled = {verified}
            "#
        )
    }
}

impl Peer {
    pub async fn start(kind: Kind, upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = if kind == Kind::Direct { upstream } else { free() };
        let path = folder.path().display().to_string();
        let write = |name: &str, text: &str| -> PathBuf {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let words: Vec<String> = match kind {
            Kind::Direct => Vec::new(),
            Kind::Floor => vec![own_name(), "floor".into(), address.port().to_string(), upstream.port().to_string()],
            Kind::Nginx => {
                let file = write("nginx.conf", &nginx(address, upstream, &path));
                vec!["nginx".into(), "-c".into(), file.display().to_string(), "-e".into(), format!("{path}/error.log")]
            }
            _ => {
                let file = write("spectra.toml", &kind.config(address, upstream, &path));
                vec![env!("CARGO_BIN_EXE_spectra").into(), "serve".into(), "--config".into(), file.display().to_string()]
            }
        };
        let child = (!words.is_empty()).then(|| pinned("0", &words, &write("log", "")));
        up(address).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Self { kind, address, child, _folder: folder }
    }

    /// CPU time so far, in microseconds: of the threads that serve, and of all the others.
    pub fn cpu_us(&self) -> [f64; 2] {
        let Some(child) = &self.child else { return [0.0; 2] };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
        let mut spent = [0.0; 2];
        for task in tasks.filter_map(|task| Some(task.ok()?.path())) {
            let read = |name: &str| std::fs::read_to_string(task.join(name)).unwrap_or_default();
            let ns = read("schedstat").split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default();
            let behind = ["clerk", "ledger", "log", "traces"].contains(&read("comm").trim());
            spent[usize::from(behind)] += ns / 1e3;
        }
        spent
    }

    /// Memory with shared pages counted once.
    pub fn memory_mib(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", child.id())).unwrap();
        let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub async fn start_mock() -> Peer {
    let address = free();
    let folder = tempfile::tempdir().unwrap();
    let child = pinned("1", &[own_name(), "mock".into(), address.port().to_string()], &folder.path().join("log"));
    up(address).await;
    Peer { kind: Kind::Direct, address, child: Some(child), _folder: folder }
}

/// The client runs beside the upstream.
pub fn pin_self() {
    let own = std::process::id().to_string();
    drop(Command::new("taskset").args(["-cp", "1", &own]).stdout(Stdio::null()).status());
    if may_be_first() {
        drop(Command::new("chrt").args(["-r", "-p", "1", &own]).stdout(Stdio::null()).status());
    }
}

fn may_be_first() -> bool {
    let tried = Command::new("chrt").args(["-r", "1", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// A process on one core, before everything else on it where this user may say so (root): a machine that measures often has
/// other things to do. One without `taskset`, or with one core, is not one to measure on.
fn pinned(core: &str, words: &[String], log: &std::path::Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    let first: &[&str] = if may_be_first() { &["chrt", "-r", "1"] } else { &[] };
    Command::new("taskset").args(["-c", core]).args(first).args(words).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn own_name() -> String {
    std::env::current_exe().unwrap().display().to_string()
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn up(address: SocketAddr) {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "nothing listens on {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn nginx(own: SocketAddr, upstream: SocketAddr, folder: &str) -> String {
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log warn;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; tcp_nodelay on; keepalive_requests 1000000000;
            client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
            uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            upstream up {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}
            server {{ listen {own};
                location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; }}
            }}
        }}"
    )
}
