//! hyper answers a head that is no HTTP by itself, with an empty body, before any service is asked. On its way out that
//! answer is told again in OpenAI's form.

use bytes::Bytes;

use crate::{Failure, Refusal, stack};

/// The same refusal with a body, if `written` is one of hyper's own. No answer of ours with such a status is empty.
pub(super) fn retold(written: &[u8]) -> Option<Bytes> {
    let status = written.strip_prefix(b"HTTP/1.1 4")?;
    let refusal = match status.get(..2)? {
        b"00" => Refusal::BadHttp,
        b"14" => Refusal::UrlTooLong,
        b"31" => Refusal::HeadersTooLarge,
        _ => return None,
    };
    let head = std::str::from_utf8(written).ok()?.strip_suffix("\r\n\r\n")?;
    let empty = head.split("\r\n").any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    empty.then(|| {
        let failure = Failure::from(refusal);
        let (body, id) = (failure.json(), stack::new_id());
        let (status, length) = (failure.status, body.len());
        tracing::debug!(request_id = &*id, code = failure.label, "what came is no HTTP request");
        format!("HTTP/1.1 {status}\r\nx-request-id: {id}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_refusals_of_hypers_are_told_again() {
        let hypers = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let told = String::from_utf8(retold(hypers.as_bytes()).unwrap().to_vec()).unwrap();
        assert!(told.starts_with("HTTP/1.1 431 ") && told.ends_with("\"code\":\"headers_too_large\"}}"), "{told}");
        for other in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nbody",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 12\r\n\r\n",
            "HTTP/1.1 4",
            "",
        ] {
            assert!(retold(other.as_bytes()).is_none(), "{other}");
        }
    }
}
