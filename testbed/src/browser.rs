//! A real browser without a screen, for the test of the owner's page: Chromium, driven by keys through its debugging pipe.
//!
//! Messages are JSON with a zero byte behind each, on descriptors 3 and 4: no port is opened, and no library is needed. It runs in a directory of
//! its own, and everything that it asks of any network is in its own log, which is read when it has ended. What must never happen: a test that
//! passes because the browser was not asked.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::tools;

/// The browser answers within this; the machine may be busy.
const ANSWER: Duration = Duration::from_secs(30);
/// What a page is to become within this.
const SOON: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(50);
/// No page of ours has more places to stop at.
const STOPS: usize = 80;

/// Chromium, as `hack/tools/chromium.sh` gets it. `None`: this machine cannot have it, which is a failure in CI.
pub fn program() -> Result<Option<PathBuf>> {
    let script = tools::checkout()?.join("hack/tools/chromium.sh");
    let output = std::process::Command::new("bash").arg(script).output();
    let output = output.context("failed to run bash")?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).trim().into()));
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("NOT TESTED in a browser: {why}");
    Ok(None)
}

/// A key that people steer a page by.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    /// To the next place.
    Tab,
    /// Do it.
    Enter,
    /// Do it.
    Space,
    /// Away with it.
    Escape,
    /// The next choice.
    Down,
}

impl Key {
    /// Name, code, number, and the text that it types.
    fn words(self) -> (&'static str, &'static str, u8, Option<&'static str>) {
        match self {
            Self::Tab => ("Tab", "Tab", 9, None),
            Self::Enter => ("Enter", "Enter", 13, Some("\r")),
            Self::Space => (" ", "Space", 32, Some(" ")),
            Self::Escape => ("Escape", "Escape", 27, None),
            Self::Down => ("ArrowDown", "ArrowDown", 40, None),
        }
    }
}

/// A browser with one page.
pub struct Browser {
    child: Child,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
    session: Option<String>,
    asked: u64,
    /// What it said without being asked.
    events: Vec<Value>,
    net_log: PathBuf,
}

impl Browser {
    /// Starts it in `dir`, with an empty page as wide and high as that in a phone's pixels.
    pub async fn start(program: &Path, dir: &Path, width: u32, height: u32) -> Result<Self> {
        let net_log = dir.join("net.json");
        let errors = std::fs::File::create(dir.join("chromium.log")).context("failed to make a log file")?;
        let file = |name: &str, path: &Path| format!("{name}={}", path.display());
        // A shell, for the descriptors: what comes from here is 3 for the browser, and what it says there by 4 comes here.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>&2"#])
            .arg(program)
            .args([
                "--remote-debugging-pipe",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--lang=en-US",
            ])
            // It opens our own page only, and its sandbox needs what a container or root does not have.
            .arg("--no-sandbox")
            .arg(file("--user-data-dir", &dir.join("profile")))
            .arg(file("--log-net-log", &net_log))
            .env("HOME", dir)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .context("failed to start the browser")?;
        let tell = child.stdin.take().context("its input is a pipe")?;
        let hear = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let mut browser = Self {
            child,
            tell,
            hear,
            session: None,
            asked: 0,
            events: Vec::new(),
            net_log,
        };
        let made = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await?;
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 2, "mobile": true});
        browser.call("Emulation.setDeviceMetricsOverride", screen).await?;
        Ok(browser)
    }

    /// Asks the browser something of its protocol.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.asked += 1;
        let number = self.asked;
        let mut message = json!({"id": number, "method": method});
        message["params"] = params;
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut text = message.to_string().into_bytes();
        text.push(0);
        self.tell
            .write_all(&text)
            .await
            .context("the browser does not listen")?;
        self.tell.flush().await.context("the browser does not listen")?;
        loop {
            let mut said = self.hear().await.with_context(|| format!("it was asked {method}"))?;
            if said["id"] != number {
                self.events.push(said);
                continue;
            }
            ensure!(
                said["error"].is_null(),
                "the browser refuses {method}: {}",
                said["error"]
            );
            return Ok(said["result"].take());
        }
    }

    async fn hear(&mut self) -> Result<Value> {
        let mut text = Vec::new();
        let read = timeout(ANSWER, self.hear.read_until(0, &mut text)).await;
        read.context("the browser does not answer")?
            .context("the browser is not heard")?;
        ensure!(text.pop() == Some(0), "the browser has ended");
        serde_json::from_slice(&text).context("the browser says what is no JSON")
    }

    /// Goes to an address.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let came = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(came["errorText"].is_null(), "{url}: {}", came["errorText"]);
        Ok(())
    }

    /// What an expression of the page is, awaited if it is to come.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut said = self.call("Runtime.evaluate", asked).await?;
        let wrong = &said["exceptionDetails"];
        ensure!(wrong.is_null(), "{expression}: {wrong}");
        Ok(said["result"]["value"].take())
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, what: &str, expression: &str) -> Result<()> {
        let end = Instant::now() + SOON;
        while self.evaluate(&format!("Boolean({expression})")).await? != true {
            if Instant::now() >= end {
                let seen = self.evaluate("document.body.innerText").await?;
                bail!(
                    "waited in vain for {what}; the page is:\n{}",
                    seen.as_str().unwrap_or_default()
                );
            }
            sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Presses a key, and lets it go.
    pub async fn press(&mut self, key: Key) -> Result<()> {
        let (name, code, number, text) = key.words();
        let mut down = json!({"type": "rawKeyDown", "key": name, "code": code, "windowsVirtualKeyCode": number});
        let mut up = down.clone();
        if let Some(text) = text {
            down["type"] = json!("keyDown");
            down["text"] = json!(text);
        }
        up["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", down).await?;
        self.call("Input.dispatchKeyEvent", up).await?;
        Ok(())
    }

    /// Types a text where the focus is.
    pub async fn write(&mut self, text: &str) -> Result<()> {
        self.call("Input.insertText", json!({"text": text})).await.map(drop)
    }

    /// The id of what has the focus.
    pub async fn focus(&mut self) -> Result<String> {
        let id = self.evaluate("document.activeElement.id").await?;
        Ok(id.as_str().unwrap_or_default().to_owned())
    }

    /// Goes from place to place by the tabulator until the one of this id has the focus.
    pub async fn tab_to(&mut self, id: &str) -> Result<()> {
        let mut seen = Vec::new();
        for _ in 0..STOPS {
            let here = self.focus().await?;
            if here == id {
                return Ok(());
            }
            seen.push(here);
            self.press(Key::Tab).await?;
        }
        bail!("'{id}' is not reached by the tabulator; there are {}", seen.join(" "))
    }

    /// The addresses that its page has asked for so far.
    pub fn requested(&self) -> Vec<String> {
        let sent = self
            .events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str().map(str::to_owned))
            .collect()
    }

    /// What went wrong in scripts of the page.
    pub fn exceptions(&self) -> Vec<&Value> {
        let thrown = self
            .events
            .iter()
            .filter(|event| event["method"] == "Runtime.exceptionThrown");
        thrown.map(|event| &event["params"]["exceptionDetails"]).collect()
    }

    /// Ends it; every address of the web that it has asked for, its page or itself, by its own log.
    pub async fn end(mut self) -> Result<Vec<String>> {
        self.session = None;
        self.call("Browser.close", json!({})).await?;
        let ended = timeout(ANSWER, self.child.wait()).await;
        ended
            .context("the browser does not end")?
            .context("the browser is not waited for")?;
        let log: Value = crate::layout::read_json(&self.net_log)?;
        let events = log["events"].as_array().context("the browser's log has events")?;
        let urls = events.iter().filter_map(|event| event["params"]["url"].as_str());
        Ok(urls
            .filter(|url| {
                ["http:", "https:", "ws:", "wss:"]
                    .iter()
                    .any(|web| url.starts_with(web))
            })
            .map(str::to_owned)
            .collect())
    }
}
