//! A transfer over HTTP that survives cut connections: it goes on where it stopped if the server still has the same
//! file, starts over if it has not, and gives up after a few tries without progress.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::header::{AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LOCATION, RANGE};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::human;
use super::progress::Progress;
use super::source::is_safe;

/// Tries in a row that brought nothing new.
const TRIES: u32 = 4;
const REDIRECTS: usize = 10;
const REMEDY: &str = "The same command goes on from here once the network is back; a proxy is taken from HTTPS_PROXY, a mirror \
    of the hub from HF_ENDPOINT. With the file already at hand: spectra model pull file:/path/to/model.gguf";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in the middle of a transfer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How servers are asked.
#[derive(Debug)]
pub struct Transport {
    client: Client,
    hub: Url,
    /// `Bearer …`, marked sensitive so that it is not printed; it goes to the hub's own origin and nowhere else.
    authorization: Option<HeaderValue>,
    /// The first wait before another try; it doubles.
    pub retry_wait: Duration,
}

/// One file to fetch.
#[derive(Debug)]
pub struct Wanted {
    pub url: Url,
    /// Set for the hub: `owner/name`, for its error messages.
    pub repository: Option<String>,
    /// What the user asked for; an unfinished transfer of something else is not continued.
    pub source: String,
    pub part: PathBuf,
    /// Beside `part`: what is known of the file there, so that a later run can go on.
    pub notes: PathBuf,
    pub bytes: Option<u64>,
    /// Whether a mixture of two versions would be noticed at the end.
    pub checksum_known: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Notes {
    source: String,
    /// The server's strong ETag.
    validator: Option<String>,
    total: Option<u64>,
    sha256: Option<String>,
}

/// Why a try ended: another may help, or not.
enum Failure {
    Passing(anyhow::Error),
    Final(anyhow::Error),
}
use Failure::{Final, Passing};

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Final(error.into())
    }
}

/// Refuses a transfer of so many bytes when there is no room for it.
type NeedRoom<'a> = dyn Fn(u64) -> anyhow::Result<()> + Send + Sync + 'a;

impl Transport {
    /// With `HF_ENDPOINT` and `HF_TOKEN` of the environment.
    pub fn from_env() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let hub = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let hub = Url::parse(&hub).with_context(|| format!("HF_ENDPOINT is not an address: `{hub}`"))?;
        Self::new(Client::builder(), hub, variable("HF_TOKEN").as_deref())
    }

    /// # Errors
    /// The token cannot stand in a header; the hub would get it unencrypted; there are no root certificates.
    pub fn new(client: reqwest::ClientBuilder, hub: Url, token: Option<&str>) -> anyhow::Result<Self> {
        anyhow::ensure!(is_safe(&hub), "HF_ENDPOINT must be https");
        let client = client
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("spectra/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("preparing HTTPS (are the system's root certificates installed?)")?;
        let authorization = token.map(|token| HeaderValue::try_from(format!("Bearer {}", token.trim()))).transpose();
        // Without the error's own text: it may quote the token.
        let mut authorization = authorization.map_err(|_| anyhow!("HF_TOKEN holds characters no token has"))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        Ok(Self { client, hub, authorization, retry_wait: Duration::from_secs(1) })
    }

    /// Where the hub has a file.
    pub fn hub_url(&self, repository: &str, file: &str, revision: &str) -> anyhow::Result<Url> {
        let mut url = self.hub.clone();
        let mut path = url.path_segments_mut().map_err(|()| anyhow!("HF_ENDPOINT cannot have a path"))?;
        path.pop_if_empty().extend(repository.split('/')).extend(["resolve", revision]).extend(file.split('/'));
        drop(path);
        Ok(url)
    }

    /// Fetches the file into `wanted.part`; returns the sha256 the hub announced, if it did.
    ///
    /// # Errors
    /// What went wrong last, and the remedy.
    pub async fn download(&self, wanted: &Wanted, need_room: &NeedRoom<'_>, progress: &mut Progress) -> anyhow::Result<Option<String>> {
        let mut reached = 0;
        let mut failures = 0;
        loop {
            let error = match self.attempt(wanted, need_room, progress).await {
                Ok(announced) => return Ok(announced),
                Err(Final(error)) => return Err(error),
                Err(Passing(error)) => error,
            };
            progress.stop();
            let here = length(&wanted.part);
            failures = if here > reached { 1 } else { failures + 1 };
            reached = reached.max(here);
            if failures >= TRIES {
                return Err(error.context(format!("gave up after {TRIES} tries. {REMEDY}")));
            }
            progress.say(&format!("{error:#}; trying again"));
            tokio::time::sleep(self.retry_wait.saturating_mul(1 << (failures - 1))).await;
        }
    }

    async fn attempt(&self, wanted: &Wanted, need_room: &NeedRoom<'_>, progress: &mut Progress) -> Result<Option<String>, Failure> {
        let notes = read_notes(wanted);
        let offset = match notes.validator.is_some() || wanted.checksum_known {
            true if notes.source == wanted.source => length(&wanted.part),
            _ => 0,
        };
        let (response, announced) = self.request(wanted, offset, notes.validator.as_deref()).await?;
        let announced = announced.or_else(|| notes.sha256.clone());
        let headers = response.headers();
        let (start, total) = match response.status() {
            StatusCode::PARTIAL_CONTENT => continues(headers, offset, &notes).map_err(|error| start_over(wanted, error))?,
            StatusCode::OK => (0, response.content_length()),
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 && notes.total == Some(offset) => return Ok(announced),
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(start_over(wanted, anyhow!("what is here is longer than the file"))),
            status => return Err(self.refused(wanted, status, headers)),
        };
        if start > 0 {
            progress.say(&format!("going on at {}", human(start)));
        } else if offset > 0 {
            progress.say("the server cannot go on where the last transfer stopped, or has another file now; starting over");
        }
        if let (Some(total), Some(bytes)) = (total, wanted.bytes)
            && total != bytes
        {
            return Err(Final(anyhow!("{} has {total} bytes there, expected {bytes}; the file has changed", wanted.source)));
        }
        need_room(total.unwrap_or_default().saturating_sub(start))?;
        if start == 0 {
            // Before the notes: they must never describe bytes of another file, whenever this process dies.
            drop(fs::remove_file(&wanted.part));
        }
        let validator = strong_etag(headers);
        let notes = Notes { source: wanted.source.clone(), validator, total, sha256: announced.clone() };
        fs::write(&wanted.notes, serde_json::to_vec(&notes)?)?;
        receive(response, &wanted.part, start, total, progress).await?;
        Ok(announced)
    }

    /// Asks for the file from `offset` on, following redirects; also returns the sha256 the hub announces on the way.
    async fn request(&self, wanted: &Wanted, offset: u64, validator: Option<&str>) -> Result<(Response, Option<String>), Failure> {
        let mut url = wanted.url.clone();
        let mut announced = None;
        for _ in 0..REDIRECTS {
            let is_hub = wanted.repository.is_some() && url.origin() == self.hub.origin();
            let mut request = self.client.get(url.clone());
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
                if let Some(validator) = validator {
                    request = request.header(IF_RANGE, validator);
                }
            }
            if let (true, Some(authorization)) = (is_hub, &self.authorization) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = request.send().await.map_err(|error| unreachable(&url, error))?;
            if is_hub {
                announced = announced.or_else(|| linked_sha256(response.headers()));
            }
            let next = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(next) = next else { return Ok((response, announced)) };
            url = url.join(next.to_str()?)?;
            if !is_safe(&url) {
                return Err(Final(anyhow!("{} redirects to an address that is not https", wanted.source)));
            }
        }
        Err(Final(anyhow!("{} redirects more than {REDIRECTS} times", wanted.source)))
    }

    /// What an error status means for the user.
    fn refused(&self, wanted: &Wanted, status: StatusCode, headers: &HeaderMap) -> Failure {
        let source = &wanted.source;
        match (status, &wanted.repository) {
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(repository)) => {
                let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or("no reason given");
                let token = match self.authorization {
                    Some(_) => "HF_TOKEN is set, but its account has no access to it",
                    None => "HF_TOKEN is not set",
                };
                let page = self.hub.join(repository).map(|page| page.to_string()).unwrap_or_default();
                Final(anyhow!(
                    "the hub refuses {source} ({status}, {code}); {token}. If the name is right, the model is gated or private: accept its \
                     terms at {page}, make a token that can read (settings, access tokens), then HF_TOKEN=… spectra model pull {source}"
                ))
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, None) => Final(anyhow!(
                "the server refuses {source} ({status}); fetch the file with what it asks for, then spectra model pull file:/path/to/it"
            )),
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {
                Final(anyhow!("{source} is not there ({status}); check the spelling, also upper and lower case"))
            }
            _ if status.is_server_error() || matches!(status.as_u16(), 408 | 429) => {
                Passing(anyhow!("the server answered {status} for {source}"))
            }
            _ => Final(anyhow!("the server answered {status} for {source}")),
        }
    }
}

/// Writes the body to the file from `start` on.
async fn receive(mut response: Response, part: &Path, start: u64, total: Option<u64>, progress: &mut Progress) -> Result<(), Failure> {
    let mut file = tokio::fs::File::options().create(true).write(true).truncate(false).open(part).await?;
    file.set_len(start).await?;
    tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(start)).await?;
    progress.start(start, total);
    let mut done = start;
    let ended = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                file.write_all(&chunk).await.context("writing to the models folder")?;
                done += chunk.len() as u64;
                progress.at(done);
            }
            Ok(None) => break None,
            Err(error) => break Some(error.without_url()),
        }
    };
    // Also after a cut: what has arrived is where the next try goes on.
    file.sync_all().await.context("writing to the models folder")?;
    match (ended, total) {
        (None, Some(total)) if done < total => Err(Passing(anyhow!("the connection ended at {done} of {total} bytes"))),
        (None, _) => Ok(()),
        (Some(error), _) => Err(Passing(anyhow::Error::new(error).context(format!("the connection was cut after {done} bytes")))),
    }
}

/// Whether a 206 is the rest of what is here: (where it starts, how long the whole is).
fn continues(headers: &HeaderMap, offset: u64, notes: &Notes) -> anyhow::Result<(u64, Option<u64>)> {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (start, rest) = range.trim_start_matches("bytes ").split_once('-').context("a partial answer without its range")?;
    anyhow::ensure!(start.parse() == Ok(offset), "the server sent another part than was asked for");
    let total = rest.split_once('/').and_then(|(_, total)| total.parse().ok());
    let unchanged = match (&notes.validator, strong_etag(headers)) {
        (Some(before), Some(now)) => *before == now,
        _ => true,
    };
    anyhow::ensure!(unchanged && (notes.total.is_none() || total.is_none() || notes.total == total), "the file has changed at the server");
    Ok((offset, total))
}

fn start_over(wanted: &Wanted, why: anyhow::Error) -> Failure {
    drop(fs::remove_file(&wanted.part));
    drop(fs::remove_file(&wanted.notes));
    Passing(why.context("cannot go on where the last transfer stopped"))
}

fn unreachable(url: &Url, error: reqwest::Error) -> Failure {
    let host = url.host_str().unwrap_or_default().to_owned();
    // Without the address: after a redirect it may carry a signature.
    Passing(anyhow::Error::new(error.without_url()).context(format!("cannot reach {host}")))
}

fn read_notes(wanted: &Wanted) -> Notes {
    fs::read(&wanted.notes).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |about| about.len())
}

fn strong_etag(headers: &HeaderMap) -> Option<String> {
    headers.get(ETAG)?.to_str().ok().filter(|etag| etag.starts_with('"')).map(str::to_owned)
}

/// The hub's checksum of a large file; of small ones it sends a git hash, which has 40 digits.
fn linked_sha256(headers: &HeaderMap) -> Option<String> {
    let etag = headers.get("x-linked-etag")?.to_str().ok()?.trim_start_matches("W/").trim_matches('"');
    (etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())).then(|| etag.to_ascii_lowercase())
}
