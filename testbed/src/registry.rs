//! A real OCI registry on loopback, and what is pushed to it.
//!
//! Called by `up`. The registry is `distribution` with a directory for storage and no sign-in: it listens on loopback only.
//! [`guarded`] is another one, with a sign-in.

pub mod artifact;
pub mod guarded;
pub mod push;
pub mod sign;

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::layout::{Layout, write_json};
use crate::process::{self, Program, Record};
use crate::{http, ports, tools};

/// Starts the registry; gives the `host:port` by which images are named.
pub async fn start(layout: &Layout) -> Result<String> {
    let port = ports::free()?;
    let host = format!("127.0.0.1:{port}");
    let dir = layout.dir("registry")?;
    let own = json!({
        "storage": {"filesystem": {"rootdirectory": dir.join("data")}, "delete": {"enabled": true}},
        "http": {"addr": host},
    });
    let record = serve(layout, "registry", own)?;
    let base = format!("http://{host}");
    process::ready(&record, Duration::from_secs(30), || async {
        http::get(&base, "/v2/").await.map(drop)
    })
    .await?;
    Ok(host)
}

/// Starts one in the directory of its name, with this of its own in its configuration.
fn serve(layout: &Layout, name: &str, own: Value) -> Result<Record> {
    let mut configuration = own;
    configuration["version"] = json!(0.1);
    configuration["log"] = json!({"level": "warn"});
    let config = layout.dir(name)?.join("config.yml");
    // JSON, which every reader of YAML reads.
    write_json(&config, &configuration)?;
    let program = Program::new(name, tools::pinned("registry", "registry")?)
        .args(["serve".to_owned(), config.display().to_string()])
        .env("OTEL_TRACES_EXPORTER", "none");
    process::start(layout, &program)
}
