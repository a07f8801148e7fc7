//! Cases: the reference loads; each file in `invalid/` fails with the message in its first comment.

use super::*;

fn none(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml", &none)
}

#[test]
fn the_reference_works_without_a_key_and_says_so() {
    let config = parse(REFERENCE).unwrap();
    assert!(!config.backends.contains_key("openai"));
    assert_eq!(config.routes["strong"].ladder_names(), ["llama"]);
    assert!(config.notices.iter().any(|notice| notice.contains("OPENAI_API_KEY")), "{:?}", config.notices);
}

#[test]
fn the_reference_works_with_a_key_and_hides_it() {
    let env = |name: &str| (name == "OPENAI_API_KEY").then(|| "sk-canary".to_owned());
    let config = Config::parse(REFERENCE, "test.toml", &env).unwrap();
    assert_eq!(config.routes["strong"].ladder_names(), ["openai", "llama"]);
    assert!(config.notices.is_empty(), "{:?}", config.notices);
    assert!(!format!("{config:?}").contains("sk-canary"));
}

#[test]
fn every_shipped_example_loads() {
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") && path.file_name().unwrap() != "Cargo.toml" {
            let text = std::fs::read_to_string(&path).unwrap();
            Config::parse(&text, &path.display().to_string(), &|_| Some("http://127.0.0.1:1/v1".into()))
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn each_invalid_file_is_told_what_to_write() {
    let mut seen = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/invalid")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: Vec<&str> = text.lines().take_while(|line| line.starts_with("# ")).map(|line| &line[2..]).collect();
        assert!(!expected.is_empty(), "{} has no expectation", path.display());
        let message = parse(&text).expect_err(&path.display().to_string()).to_string();
        for part in expected {
            assert!(message.contains(part), "{}: expected {part:?} in\n{message}", path.display());
        }
        assert!(message.contains("help: "), "{message}");
        seen += 1;
    }
    assert!(seen >= 6);
}
