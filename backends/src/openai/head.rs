//! The head of a request: URL, query, authentication and configured headers, as async-openai writes them.

use std::sync::Arc;

use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use async_openai::traits::RequestOptionsBuilder;
use futures_util::FutureExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use parking_lot::Mutex;
use spectra_config as config;

use super::transport;
use crate::BuildError;

/// What every request to one endpoint begins with.
#[derive(Clone)]
pub struct Head {
    pub uri: Uri,
    pub headers: HeaderMap,
}

/// Has async-openai make one request, and keeps it instead of sending it.
pub fn write(name: &str, openai: &config::Openai, path: &str) -> Result<Head, BuildError> {
    let wrong = |what: String| BuildError::Backend { name: name.to_owned(), what };
    let written = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&written);
    let keeper = tower::service_fn(move |factory: HttpRequestFactory| {
        let keep = Arc::clone(&keep);
        async move {
            *keep.lock() = Some(factory.build().await?);
            Err::<reqwest::Response, _>(OpenAIError::InvalidArgument("kept, not sent".into()))
        }
    });
    let client = async_openai::Client::build(transport::never_used(name)?, settings(name, openai)?).with_http_service(keeper);
    let chat = client.chat().path(path).and_then(|chat| if openai.query.is_empty() { Ok(chat) } else { chat.query(&openai.query) });
    let chat = chat.map_err(|error| wrong(error.to_string()))?;
    // Nothing in it waits: the keeper answers at once.
    let refused = chat.create_byot::<_, serde_json::Value>(serde_json::Value::Null).now_or_never();
    let Some(request) = written.lock().take() else {
        return Err(wrong(match refused {
            Some(Err(error)) => format!("base_url {:?} cannot be asked: {error}", openai.base_url.get()),
            _ => "async-openai made no request".to_owned(),
        }));
    };
    let uri = request.url().as_str().parse().map_err(|error| wrong(format!("base_url {:?}: {error}", openai.base_url.get())))?;
    let mut headers = request.headers().clone();
    if openai.api_key.is_none() || openai.key_header.is_some() {
        // It always writes one, with an empty key if need be; a configured one stays.
        if !openai.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
            headers.remove(AUTHORIZATION);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static(concat!("spectra-gateway/", env!("CARGO_PKG_VERSION"))));
    for value in headers.values_mut() {
        value.set_sensitive(true);
    }
    Ok(Head { uri, headers })
}

/// Everything is said here, so that nothing is taken from the environment behind the operator's back.
fn settings(name: &str, openai: &config::Openai) -> Result<OpenAIConfig, BuildError> {
    let wrong = |what: String| BuildError::Backend { name: name.to_owned(), what };
    let key = openai.api_key.as_ref().map_or("", |key| key.expose());
    // async-openai panics on a key that is no header value.
    HeaderValue::from_str(key).map_err(|_| wrong("api_key has characters that a header cannot carry (a line break?)".into()))?;
    let mut settings = OpenAIConfig::new()
        .with_api_base(openai.base_url.get().trim_end_matches('/'))
        .with_api_key(if openai.key_header.is_some() { "" } else { key })
        .with_org_id("")
        .with_project_id("");
    let own = openai.key_header.iter().map(|header| (header.as_str(), key));
    for (header, value) in openai.headers.iter().map(|(header, value)| (header.as_str(), value.get())).chain(own) {
        let header_name = HeaderName::try_from(header).map_err(|_| wrong(format!("{header:?} is no header name")))?;
        settings = settings.with_header(header_name, value).map_err(|_| wrong(format!("the value of header {header} cannot be sent")))?;
    }
    Ok(settings)
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Head").field("uri", &self.uri).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(toml: &str) -> Head {
        let text = format!("[backends.b.openai]\nmodel = \"m\"\n{toml}\n[routes.r]\nladder=[\"b\"]\n[router]\nlocal=\"r\"\nstrong=\"r\"");
        let config = config::Config::parse(&text, "test", &|name| (name == "KEY").then(|| "sk-1".to_owned())).unwrap();
        write("b", config.backends["b"].openai.as_deref().unwrap(), "/chat/completions").unwrap()
    }

    fn check(toml: &str, uri: &str, authorization: Option<&str>, other: Option<(&str, &str)>) {
        let head = written(toml);
        assert_eq!(head.uri, uri, "{toml}");
        assert_eq!(head.headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap()), authorization, "{toml}");
        if let Some((name, value)) = other {
            assert_eq!(head.headers[name], value, "{toml}");
        }
    }

    #[test]
    fn urls_and_keys_as_servers_want_them() {
        let openai = "base_url = \"https://api.example/v1/\"\napi_key = { env = \"KEY\" }";
        check(openai, "https://api.example/v1/chat/completions", Some("Bearer sk-1"), Some(("content-type", "application/json")));
        check("base_url = \"http://127.0.0.1:8000/v1\"", "http://127.0.0.1:8000/v1/chat/completions", None, None);
        check(
            "base_url = \"https://x.openai.azure.com/openai/deployments/d\"\napi_key = { env = \"KEY\" }\nkey_header = \"api-key\"\nquery = { \"api-version\" = \"2024-10-21\" }",
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            None,
            Some(("api-key", "sk-1")),
        );
        check(
            &format!("{openai}\nheaders = {{ \"OpenAI-Organization\" = \"org-7\" }}"),
            "https://api.example/v1/chat/completions",
            Some("Bearer sk-1"),
            Some(("openai-organization", "org-7")),
        );
    }
}
