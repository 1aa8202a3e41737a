//! What people do in their Pods in a car, by the real kubectl: exec, cp, attach and port-forward.
//!
//! Each story is told over both transports: kubectl's WebSocket, which kube-apiserver hands to the adapter as it is, and SPDY/3.1.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::wait;
use kerbside_testbed::world::{DEADLINE, World};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{amend, pod, run, running};

/// What kubectl speaks with the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Spdy,
}

impl Transport {
    fn variables(self) -> [(&'static str, &'static str); 2] {
        let on = if self == Self::WebSocket { "true" } else { "false" };
        [
            ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", on),
            ("KUBECTL_PORT_FORWARD_WEBSOCKETS", on),
        ]
    }
}

fn kubectl(world: &World, transport: Transport, words: &[&str]) -> Command {
    let tool = world.kubectl();
    let mut command = Command::new(tool.program());
    command
        .env("KUBECONFIG", tool.kubeconfig())
        .envs(transport.variables())
        .args(["-n", &world.name])
        .args(words)
        .kill_on_drop(true);
    command
}

struct Said {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

async fn said(mut command: Command, stdin: &[u8]) -> Result<Said> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to run kubectl")?;
    let mut pipe = child.stdin.take().context("its input is a pipe")?;
    let bytes = stdin.to_vec();
    let write = tokio::spawn(async move { pipe.write_all(&bytes).await });
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
        .await
        .context("kubectl does not end")??;
    // One that ends early does not read everything.
    let _ = write.await;
    Ok(Said {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A Pod that serves, in a car whose owner lets people in.
pub(crate) async fn served(world: &World, car: &Car) -> Result<()> {
    amend(world, car, |document| document["allowExec"] = true.into()).await?;
    world.apply(&pod(world, "served", "serve 8080")).await?;
    running(world, "served").await.map(drop)
}

/// Exec in all its ways.
pub(crate) async fn exec(world: &World, transport: Transport) -> Result<()> {
    let words = [
        "exec", "served", "--", "/actor", "say", "hello", ";", "complain", "bad", ";", "exit", "7",
    ];
    let how = said(kubectl(world, transport, &words), b"").await?;
    ensure!(
        how.stdout == b"hello\n",
        "{:?} {}",
        String::from_utf8_lossy(&how.stdout),
        how.stderr
    );
    ensure!(how.stderr.starts_with("bad\n"), "{}", how.stderr);
    ensure!(
        how.stderr.contains("exit code 7") && how.code == Some(7),
        "{:?} {}",
        how.code,
        how.stderr
    );

    let typed: Vec<u8> = (0..40_000_u32).flat_map(|n| format!("{n:07}\n").into_bytes()).collect();
    let how = said(
        kubectl(world, transport, &["exec", "-i", "served", "--", "/actor", "listen"]),
        &typed,
    )
    .await?;
    let heard = format!("heard {}\n", typed.len());
    ensure!(how.code == Some(0), "{:?} {}", how.code, how.stderr);
    ensure!(
        how.stdout == [&typed, heard.as_bytes()].concat(),
        "{} bytes came back",
        how.stdout.len()
    );

    let how = said(kubectl(world, transport, &["exec", "served", "--", "/nothing"]), b"").await?;
    ensure!(
        how.code != Some(0) && how.stderr.contains("/nothing"),
        "{:?} {}",
        how.code,
        how.stderr
    );
    let how = said(
        kubectl(world, transport, &["exec", "served", "-c", "other", "--", "/actor"]),
        b"",
    )
    .await?;
    ensure!(
        how.code != Some(0) && how.stderr.contains("other"),
        "{:?} {}",
        how.code,
        how.stderr
    );
    Ok(())
}

/// A terminal of 33 lines of 77 characters.
pub(crate) async fn terminal(world: &World, transport: Transport) -> Result<()> {
    let inner = kubectl(
        world,
        transport,
        &["exec", "-it", "served", "--", "/actor", "size", "33", "77"],
    );
    let inner = inner.as_std();
    let words: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).collect();
    let line: Vec<_> = words.iter().map(|w| format!("'{}'", w.to_string_lossy())).collect();
    let mut command = Command::new("script");
    command
        .args([
            "-qec",
            &format!("stty rows 33 cols 77; {}", line.join(" ")),
            "/dev/null",
        ])
        .env("KUBECONFIG", world.kubectl().kubeconfig())
        .envs(transport.variables())
        .kill_on_drop(true);
    let how = said(command, b"").await?;
    let text = String::from_utf8_lossy(&how.stdout).into_owned();
    ensure!(text.contains("size 33 77"), "{text} {}", how.stderr);
    Ok(())
}

/// A file there, and the same file back.
pub(crate) async fn copy(world: &World, transport: Transport) -> Result<()> {
    let dir = tempfile::tempdir().context("failed to make a directory")?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes: Vec<u8> = (0..700_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    std::fs::write(&there, &bytes)?;
    let (there, back) = (there.display().to_string(), back.display().to_string());
    let how = said(kubectl(world, transport, &["cp", &there, "served:/copied"]), b"").await?;
    ensure!(how.code == Some(0), "{}", how.stderr);
    let how = said(kubectl(world, transport, &["cp", "served:/copied", &back]), b"").await?;
    ensure!(how.code == Some(0), "{}", how.stderr);
    ensure!(std::fs::read(&back)? == bytes, "the file that came back is another");
    Ok(())
}

async fn get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut text = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut text))
        .await
        .context("the answer does not end")??;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Starts `kubectl port-forward` and waits for its port.
async fn forwarded(world: &World, transport: Transport, port: u16) -> Result<(Child, u16)> {
    let to = format!(":{port}");
    let mut command = kubectl(
        world,
        transport,
        &["port-forward", "pod/served", &to, "--address=127.0.0.1"],
    );
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
    let line = tokio::time::timeout(DEADLINE, lines.next_line())
        .await
        .context("no line came")??;
    let line = line.context("kubectl ended")?;
    // Forwarding from 127.0.0.1:40123 -> 8080
    let local = line.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once(' '));
    let local = local.and_then(|(port, _)| port.parse().ok()).context(line)?;
    // It writes a line for each connection.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, local))
}

/// Several connections to a port, and one to a port on which nobody listens.
pub(crate) async fn port_forward(world: &World, transport: Transport) -> Result<()> {
    let (_child, port) = forwarded(world, transport, 8080).await?;
    let (first, second, large) = tokio::join!(get(port, "/a"), get(port, "/b"), get(port, "/bytes/1048576"));
    for answer in [first?, second?] {
        ensure!(answer.ends_with("ok\n"), "{answer}");
    }
    let large = large?;
    ensure!(large.len() > 1 << 20, "{} bytes came", large.len());
    let (mut child, port) = forwarded(world, transport, 9).await?;
    ensure!(get(port, "/").await.is_err_or_empty(), "nobody answers there");
    let mut stderr = child.stderr.take().context("its errors are a pipe")?;
    child.start_kill()?;
    let mut text = String::new();
    stderr.read_to_string(&mut text).await?;
    ensure!(text.contains("error forwarding port 9"), "{text}");
    Ok(())
}

/// What a program prints while somebody is there.
pub(crate) async fn attach(world: &World, transport: Transport) -> Result<()> {
    let mut command = kubectl(world, transport, &["attach", "served"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
    let (_forward, port) = forwarded(world, transport, 8080).await?;
    // What is printed before kubectl has joined nobody hears, so it is asked again.
    let heard = async {
        loop {
            get(port, "/attached").await?;
            let line = tokio::time::timeout(std::time::Duration::from_millis(500), lines.next_line()).await;
            if let Some(line) = line.ok().transpose()?.flatten() {
                return anyhow::Ok(line);
            }
        }
    };
    let line = tokio::time::timeout(DEADLINE, heard)
        .await
        .context("nothing was heard")??;
    ensure!(line.starts_with("asked /"), "{line}");
    Ok(())
}

trait OrEmpty {
    /// A connection that is closed at once is one or the other.
    fn is_err_or_empty(&self) -> bool;
}

impl OrEmpty for Result<String> {
    fn is_err_or_empty(&self) -> bool {
        self.as_ref().map_or(true, String::is_empty)
    }
}

async fn everything(world: &World, transport: Transport) -> Result<()> {
    exec(world, transport).await.context("exec")?;
    terminal(world, transport).await.context("a terminal")?;
    copy(world, transport).await.context("cp")?;
    port_forward(world, transport).await.context("port-forward")?;
    attach(world, transport).await.context("attach")
}

#[tokio::test]
async fn people_are_in_their_pods_by_websockets() -> Result<()> {
    run("streams-ws", async |world, car| {
        served(world, car).await?;
        everything(world, Transport::WebSocket).await
    })
    .await
}

#[tokio::test]
async fn people_are_in_their_pods_by_spdy() -> Result<()> {
    run("streams-spdy", async |world, car| {
        served(world, car).await?;
        everything(world, Transport::Spdy).await
    })
    .await
}

/// An owner who has not allowed it is not asked: nobody gets in, kubectl says why, and the owner sees who wanted to.
#[tokio::test]
async fn nobody_gets_in_whom_the_owner_does_not_let_in() -> Result<()> {
    run("streams-no", async |world, car| {
        world.apply(&pod(world, "served", "serve 8080")).await?;
        running(world, "served").await?;
        for transport in [Transport::WebSocket, Transport::Spdy] {
            let how = said(
                kubectl(world, transport, &["exec", "served", "--", "/actor", "say", "hi"]),
                b"",
            )
            .await?;
            ensure!(how.code != Some(0) && how.stdout.is_empty(), "{}", how.stderr);
            ensure!(how.stderr.contains("allowExec"), "{}", how.stderr);
        }
        let status = car.status().await?;
        // A kubectl whose WebSocket is refused tries SPDY, too.
        ensure!(
            status
                .visits
                .iter()
                .all(|v| v.refused.contains("allowExec") && v.pod.ends_with("/served"))
                && (2..=3).contains(&status.visits.len()),
            "{:?}",
            status.visits
        );
        Ok(())
    })
    .await
}

/// The owner's no holds for who is in, too.
#[tokio::test]
async fn whoever_is_in_is_out_when_the_owner_takes_it_back() -> Result<()> {
    run("streams-back", async |world, car| {
        served(world, car).await?;
        let mut command = kubectl(
            world,
            Transport::WebSocket,
            &["exec", "-i", "served", "--", "/actor", "listen"],
        );
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Open to the end: the command would go on.
        let _typed = child.stdin.take().context("its input is a pipe")?;
        wait::until("the owner to see who is in", DEADLINE, async || {
            let visits = car.status().await?.visits;
            Ok(visits
                .last()
                .filter(|v| v.to.is_none() && v.what.contains("/actor listen"))
                .map(drop))
        })
        .await?;
        amend(world, car, |document| document["allowExec"] = false.into()).await?;
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .context("kubectl is still in")??;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && stderr.contains("allowExec"), "{stderr}");
        let visits = car.status().await?.visits;
        ensure!(visits.iter().all(|v| v.to.is_some()), "{visits:?}");
        Ok(())
    })
    .await
}
