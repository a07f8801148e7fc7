//! The built-in template sets alone, without a model: every file passes the checks; where this machine can, the
//! services start and their tests pass; so do services that the scripted author wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::author::works;
use crate::support::upstream::{Script, Upstream};
use crate::support::{Ran, command_with, run};

fn build(set: &str, out: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spectra-orchestrator"));
    let request = format!("Build a service called demo-{set} with GET /health");
    command.args(["build", &request, "--stack", set, "--no-model", "--json", "--out"]).arg(out).args(more);
    run(command)
}

/// A plan with entities, so that the CRUD templates take part.
fn with_entities(set: &str, dir: &Path) -> PathBuf {
    let printed = Command::new(env!("CARGO_BIN_EXE_spectra-orchestrator"))
        .args(["build", "a service", "--name", "demo-shop", "--stack", set, "--no-model", "--plan-only"])
        .output()
        .unwrap();
    let mut plan: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    plan["entities"] = json!([
        {"name": "Category", "fields": [{"name": "title", "type": "string"}]},
        {"name": "OrderItem", "fields": [
            {"name": "price", "type": "number"}, {"name": "count", "type": "integer"},
            {"name": "due", "type": "date"}, {"name": "paid", "type": "boolean"},
        ]},
    ]);
    let end = if set == "fastapi" { "py" } else { "ts" };
    let (folder, store) = if set == "fastapi" { ("app/routers", "app/storage.py") } else { ("src/routes", "src/store.ts") };
    let main = if set == "fastapi" { "app/main.py" } else { "src/app.ts" };
    let files = plan["files_to_create"].as_array_mut().unwrap();
    let mut add = |path: &str, needs: &[&str], defines: &[&str]| {
        files.push(json!({"path": path, "priority": "critical", "purpose": "x", "needs": needs, "defines": defines}));
        path.to_owned()
    };
    add(store, &[], &["Store"]);
    let mut routers = vec![
        add(&format!("{folder}/categories.{end}"), &[store], &["router"]),
        add(&format!("{folder}/order_items.{end}"), &[store], &["router"]),
    ];
    if set == "fastapi" {
        add("app/routers/__init__.py", &[], &[]);
        add("app/schemas.py", &[], &["Category", "OrderItemCreate"]);
        add("tests/test_categories.py", &[main], &[]);
        add("tests/test_order_items.py", &[main], &[]);
        plan["endpoints"] = json!(["GET /health", "POST /categories", "PUT /order_items/{id}"]);
    }
    let files = plan["files_to_create"].as_array_mut().unwrap();
    let main = files.iter_mut().find(|file| file["path"] == main).unwrap();
    routers.extend(main["needs"].as_array().unwrap().iter().map(|path| path.as_str().unwrap().to_owned()));
    main["needs"] = json!(routers);
    let path = dir.join(format!("{set}.json"));
    std::fs::write(&path, plan.to_string()).unwrap();
    path
}

#[test]
fn every_set_passes_the_checks_of_files() {
    for set in ["fastapi", "calculator", "express", "axum"] {
        let dir = tempfile::tempdir().unwrap();
        let ran = build(set, dir.path(), &["--service-check", "off"]);
        assert_eq!(ran.code, 0, "{set}: {}", ran.output);
    }
    for set in ["fastapi", "express"] {
        let dir = tempfile::tempdir().unwrap();
        let plan = with_entities(set, dir.path());
        let out = dir.path().join("out");
        let ran = build(set, &out, &["--service-check", "off", "--plan", plan.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{set} with entities: {}", ran.output);
    }
}

/// One environment for the Python sets, made by pip; without it (offline, no Python) the test says so and ends.
fn environment(dir: &Path) -> Option<PathBuf> {
    let venv = dir.join("venv");
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output().is_ok_and(|made| made.status.success());
    let packages = ["fastapi", "uvicorn", "httpx", "pytest", "pydantic-settings"];
    let installed = made
        && Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(packages)
            .output()
            .is_ok_and(|installed| installed.status.success());
    if !installed {
        println!("skipped: no Python with pip and its packages here");
    }
    installed.then_some(venv)
}

#[test]
fn python_services_run_and_their_tests_pass() {
    let dir = tempfile::tempdir().unwrap();
    let Some(venv) = environment(dir.path()) else { return };
    let venv = ["--service-check", "require", "--environment", venv.to_str().unwrap()];
    let check = |name: &str, ran: &Ran| {
        assert_eq!(ran.code, 0, "{name}: {}", ran.output);
        let service = &ran.summary["service"];
        assert!(service["start"].get("Ok").is_some() && service["openapi"].get("Ok").is_some(), "{name}: {service}");
        let tests = &service["tests"]["Ok"];
        assert!(name == "echo-service" || tests.as_str().unwrap().contains("passed"), "{name}: {service}");
    };
    check("calculator", &build("calculator", &dir.path().join("calculator"), &venv));
    let plan = with_entities("fastapi", dir.path());
    let with_plan = [venv.as_slice(), &["--plan", plan.to_str().unwrap()]].concat();
    check("entities", &build("fastapi", &dir.path().join("entities"), &with_plan));

    // A small, a middle and a very large service of the scripted author, 30 % of its answers spoilt.
    let upstream = Upstream::start(Script { seed: 7, percent: 30, per_file: false });
    for name in ["echo-service", "todo-api", "order-management"] {
        let work = works().into_iter().find(|work| work.name == name).unwrap();
        check(name, &run(command_with(&work, &upstream.base_url, &dir.path().join(name), &venv)));
    }

    // A service that lacks a planned endpoint is not finished, and the summary names it.
    let text = std::fs::read_to_string(&plan).unwrap().replace("POST /categories", "POST /no/such/thing");
    std::fs::write(&plan, text).unwrap();
    let ran = build("fastapi", &dir.path().join("lacking"), &with_plan);
    assert_eq!(ran.code, 2, "{}", ran.output);
    assert!(ran.output.contains("it does not serve POST /no/such/thing"), "{}", ran.output);
}
