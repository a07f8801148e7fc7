//! What a GGUF file says of itself, read in Rust before llama.cpp sees it: enough to plan memory before anything is loaded,
//! also in the gateway's own process, where no file may crash anything.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::KvType;

/// Longest text of a header that is kept; longer ones are skipped.
const LONGEST_TEXT: u64 = 64 << 10;
/// Entries a header may have, and items an array of numbers that is kept may have (one a layer).
const MOST_ENTRIES: u64 = 100_000;
const MOST_LAYERS: u64 = 4096;

/// Why a model is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("model file {path} cannot be read: {why}")]
    Unreadable { path: PathBuf, why: String },
    #[error("{path} is not a GGUF model file: {why}")]
    NotGguf { path: PathBuf, why: String },
    #[error("llama.cpp cannot load {path}: the file is damaged, or of a model it does not know; its own words are in the log above")]
    Refused { path: PathBuf },
    #[error("{0}")]
    TooLarge(String),
    #[error("llama.cpp: {0}")]
    Engine(String),
}

impl LoadError {
    /// Exit code of a worker that ends with it, after `sysexits.h`: 66 no input, 65 bad data, 71 the system's limits, 70 software.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { .. } => 66,
            Self::NotGguf { .. } | Self::Refused { .. } => 65,
            Self::TooLarge(_) => 71,
            Self::Engine(_) => 70,
        }
    }
}

/// The sizes of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the file; of all its parts, where it is split.
    pub bytes: u64,
    /// Tokens the model was trained to hold; 0: the file does not say.
    pub context: u32,
    /// 0: the file does not say; then no memory can be estimated.
    pub layers: u32,
    /// Numbers that one token puts into the key-value cache.
    pub kv_numbers: u64,
    /// How the model makes one vector of a text, as llama.cpp numbers it; 0 or none: it was not trained for that.
    pub pooling: Option<u32>,
}

impl Header {
    /// Reads the head of a file.
    ///
    /// # Errors
    /// For a file that cannot be read or whose head is not that of a GGUF.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |why: String| LoadError::Unreadable { path: path.to_owned(), why };
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let data = file.metadata().map_err(|error| unreadable(error.to_string()))?;
        if !data.is_file() {
            return Err(unreadable("not a regular file".into()));
        }
        let not_gguf = |error: Error| match error.kind() {
            ErrorKind::UnexpectedEof => LoadError::NotGguf { path: path.to_owned(), why: "it ends within its header".into() },
            ErrorKind::InvalidData => LoadError::NotGguf { path: path.to_owned(), why: error.to_string() },
            _ => LoadError::Unreadable { path: path.to_owned(), why: error.to_string() },
        };
        let facts = Facts::read(Scan { from: BufReader::with_capacity(256 << 10, file), left: data.len() }).map_err(not_gguf)?;
        Ok(facts.header(whole_bytes(path, data.len())))
    }

    /// Bytes of key-value cache one token takes.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kv: KvType) -> u64 {
        self.kv_numbers.saturating_mul(kv.bytes_of_32()) / 32
    }
}

/// A file named `…-00001-of-00003.gguf` is the first of three.
fn whole_bytes(path: &Path, own: u64) -> u64 {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((stem, parts)) = name.strip_suffix(".gguf").and_then(|name| name.split_once("-00001-of-")) else { return own };
    let others = 2..=parts.parse().unwrap_or(1).min(999);
    let length =
        |part: u32| std::fs::metadata(path.with_file_name(format!("{stem}-{part:05}-of-{parts}.gguf"))).map_or(0, |data| data.len());
    own + others.map(length).sum::<u64>()
}

/// The numbers of a header by key; arrays of numbers too, everything else is skipped.
#[derive(Default)]
struct Facts {
    architecture: String,
    numbers: HashMap<String, Vec<u64>>,
}

impl Facts {
    fn read(mut scan: Scan) -> Result<Self, Error> {
        let mut magic = [0; 4];
        scan.fill(&mut magic)?;
        if &magic != b"GGUF" {
            return Err(invalid(format!("it begins with {magic:02x?} instead of \"GGUF\"")));
        }
        let version = scan.number(4)?;
        let (_tensors, entries) = (scan.number(8)?, scan.number(8)?);
        if !(2..=3).contains(&version) || entries > MOST_ENTRIES {
            return Err(invalid(format!("its header has version {version} and {entries} entries")));
        }
        let mut facts = Self::default();
        for _ in 0..entries {
            let key = scan.text()?;
            let kind = scan.number(4)?;
            match kind {
                8 if key == "general.architecture" => facts.architecture = scan.text()?,
                9 => {
                    if let Some(numbers) = scan.array()? {
                        facts.numbers.insert(key, numbers);
                    }
                }
                0..=5 | 7 | 10 | 11 => {
                    let number = scan.number(width(kind)?)?;
                    facts.numbers.insert(key, vec![number]);
                }
                _ => scan.skip_value(kind)?,
            }
        }
        Ok(facts)
    }

    fn header(&self, bytes: u64) -> Header {
        let all = |key: &str| self.numbers.get(&format!("{}.{key}", self.architecture)).map_or(&[][..], Vec::as_slice);
        let one = |key: &str| all(key).first().copied();
        let small = |key: &str| u32::try_from(one(key).unwrap_or(0)).unwrap_or(0);
        let layers = small("block_count");
        let heads = one("attention.head_count").unwrap_or(0).max(1);
        let usual = one("embedding_length").unwrap_or(0) / heads;
        let per_head = |key: &str| one(key).unwrap_or(usual);
        let both = per_head("attention.key_length").saturating_add(per_head("attention.value_length"));
        // One count for all layers, or one for each; missing: every head has its own keys.
        let kv_heads = match all("attention.head_count_kv") {
            [] => heads.saturating_mul(u64::from(layers)),
            [same] => same.saturating_mul(u64::from(layers)),
            each => each.iter().fold(0_u64, |sum, one| sum.saturating_add(*one)),
        };
        Header {
            bytes,
            context: small("context_length"),
            layers,
            kv_numbers: kv_heads.saturating_mul(both),
            pooling: one("pooling_type").and_then(|kind| u32::try_from(kind).ok()),
        }
    }
}

/// Reads forward and never past the file's end: a length in a damaged file is no reason to allocate.
struct Scan {
    from: BufReader<File>,
    left: u64,
}

impl Scan {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.take(out.len() as u64)?;
        self.from.read_exact(out)
    }

    fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.left = self.left.checked_sub(bytes).ok_or(ErrorKind::UnexpectedEof)?;
        Ok(())
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        self.take(bytes)?;
        self.from.seek_relative(i64::try_from(bytes).map_err(|_| ErrorKind::UnexpectedEof)?)
    }

    /// Little-endian, of up to eight bytes.
    fn number(&mut self, bytes: u64) -> Result<u64, Error> {
        let mut out = [0; 8];
        let length = usize::try_from(bytes).unwrap_or(8).min(8);
        self.fill(&mut out[..length])?;
        Ok(u64::from_le_bytes(out))
    }

    fn text(&mut self) -> Result<String, Error> {
        let length = self.number(8)?;
        if length > LONGEST_TEXT {
            self.skip(length)?;
            return Ok(String::new());
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.fill(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn array(&mut self) -> Result<Option<Vec<u64>>, Error> {
        let (kind, count) = (self.number(4)?, self.number(8)?);
        if kind == 8 {
            for _ in 0..count {
                let length = self.number(8)?;
                self.skip(length)?;
            }
            return Ok(None);
        }
        let each = width(kind)?;
        if kind == 6 || kind == 12 || count > MOST_LAYERS {
            self.skip(count.checked_mul(each).ok_or(ErrorKind::UnexpectedEof)?)?;
            return Ok(None);
        }
        (0..count).map(|_| self.number(each)).collect::<Result<_, _>>().map(Some)
    }

    fn skip_value(&mut self, kind: u64) -> Result<(), Error> {
        let length = if kind == 8 { self.number(8)? } else { width(kind)? };
        self.skip(length)
    }
}

/// Bytes of a value of this kind.
fn width(kind: u64) -> Result<u64, Error> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(invalid(format!("a value in its header is of kind {kind}"))),
    }
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llama::support;

    #[test]
    fn a_file_says_its_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = support::tiny_model(folder.path());
        let header = Header::read(&path).unwrap();
        let expected = Header { bytes: header.bytes, context: support::CONTEXT, layers: 2, kv_numbers: 2 * 2 * (16 + 16), pooling: None };
        assert_eq!(header, expected);
        assert_eq!(header.bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(header.kv_bytes_per_token(KvType::F16), 256);
        assert_eq!(header.kv_bytes_per_token(KvType::Q8_0), 136);
    }

    #[test]
    fn every_part_of_a_split_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = support::tiny_bytes();
        for part in 1..=3 {
            std::fs::write(folder.path().join(format!("m-{part:05}-of-00003.gguf")), &bytes).unwrap();
        }
        assert_eq!(Header::read(&folder.path().join("m-00001-of-00003.gguf")).unwrap().bytes, 3 * bytes.len() as u64);
    }

    /// Cut and flipped anywhere, a header is read or refused in words; nothing is allocated for lengths it makes up.
    #[test]
    fn a_damaged_header_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let whole = support::tiny_bytes();
        let mut refused = 0;
        for round in 0..400_usize {
            let mut bytes = whole[..whole.len().min(16_000)].to_vec();
            if round % 2 == 0 {
                bytes.truncate(round * 12);
            } else {
                let at = (round * 7919) % 4_000;
                bytes[at] ^= 1 << (round % 8);
            }
            std::fs::write(&path, &bytes).unwrap();
            match Header::read(&path) {
                Ok(_) => {}
                Err(LoadError::NotGguf { .. }) => refused += 1,
                Err(error) => panic!("{round}: {error}"),
            }
        }
        assert!(refused > 100, "{refused}");
        assert!(matches!(Header::read(&folder.path().join("none.gguf")), Err(LoadError::Unreadable { .. })));
        assert!(matches!(Header::read(folder.path()), Err(LoadError::Unreadable { .. })));
    }
}
