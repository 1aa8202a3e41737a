//! The broker as a program, for tests, demos, and a look at an agent without a car: see the library.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::future::{OptionFuture, try_join_all, try_join3};
use jiff::Timestamp;
use kerbside_databroker::vss::{self, Release};
use kerbside_databroker::{Admits, Databroker};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// A databroker with the protocol kuksa.val.v2 and the signals of a car, which nobody has set.
#[derive(Debug, Parser)]
#[command(name = "kerbside-databroker", version)]
struct Arguments {
    /// Listens on this Unix socket; one that is there already is replaced
    #[arg(long, value_name = "PATH")]
    unix_socket: Option<PathBuf>,
    /// Listens on this address, such as 127.0.0.1:55555; with port 0 on any that is free, which is said
    #[arg(long, value_name = "ADDRESS")]
    address: Option<SocketAddr>,
    /// The certificate by which it shows who it is on its address, and whoever signed it (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["address", "tls_private_key"])]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_private_key: Option<PathBuf>,
    /// Takes the tokens in this file only, one a line; it is read for each call. Their ends and scopes count, their signatures do not
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// The release of VSS whose names it has: 4, 5 or 6
    #[arg(long, default_value = "6")]
    vss: Release,
    /// Is the broker of one car more, on a Unix socket of its own and with the names of this release; may be given for each of many cars
    #[arg(long = "car", value_name = "PATH=RELEASE", value_parser = car)]
    cars: Vec<(PathBuf, Release)>,
}

/// A socket, and the release that is spoken there.
fn car(text: &str) -> Result<(PathBuf, Release), String> {
    let Some((path, release)) = text.rsplit_once('=') else {
        return Err(format!("'{text}' does not say which release of VSS: PATH=6"));
    };
    Ok((path.into(), release.parse()?))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kerbside-databroker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    if arguments.unix_socket.is_none() && arguments.address.is_none() && arguments.cars.is_empty() {
        bail!("say where to listen: --unix-socket PATH, --address ADDRESS, --car PATH=RELEASE, or several of them");
    }
    let own = broker(&arguments, arguments.vss);
    let unix = arguments.unix_socket.as_deref().map(|path| by_unix(&own, path));
    let address = arguments.address.map(|address| by_tcp(&own, address, &arguments));
    let cars: Vec<_> = arguments
        .cars
        .iter()
        .map(|(path, release)| (path, broker(&arguments, *release)))
        .collect();
    let cars = cars.iter().map(|(path, broker)| by_unix(broker, path));
    let served = try_join3(
        async { OptionFuture::from(unix).await.transpose() },
        async { OptionFuture::from(address).await.transpose() },
        try_join_all(cars),
    );
    served.await.map(drop)
}

/// The broker of one car.
fn broker(arguments: &Arguments, release: Release) -> Databroker {
    // Numbers of signals are others after each start, as a real broker's may be.
    let first = i32::try_from(std::process::id() % 100_000).unwrap_or_default();
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the broker's clock is injected; it uses nothing else of Kerbside's"
    )]
    let wall = Arc::new(Timestamp::now);
    let broker = Databroker::new(vss::unset(release), first, wall);
    broker.admit(arguments.tokens.clone().map_or(Admits::All, Admits::File));
    broker
}

async fn by_unix(broker: &Databroker, path: &Path) -> Result<()> {
    // Left by one that was killed. Nothing else is removed for a slip of the pen.
    let is_socket = |file: std::fs::Metadata| file.file_type().is_socket();
    if path.symlink_metadata().is_ok_and(is_socket) {
        std::fs::remove_file(path).with_context(|| format!("failed to replace {}", path.display()))?;
    }
    let listener = UnixListener::bind(path).with_context(|| format!("failed to listen on {}", path.display()))?;
    println!("listening on unix:{}", path.display());
    let served = Server::builder().add_service(broker.service());
    served
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .context("failed to serve")
}

async fn by_tcp(broker: &Databroker, address: SocketAddr, arguments: &Arguments) -> Result<()> {
    let mut server = Server::builder();
    let mut scheme = "http";
    if let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_private_key) {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("failed to read {}", path.display()));
        let identity = Identity::from_pem(read(certificate)?, read(key)?);
        let tls = ServerTlsConfig::new().identity(identity);
        server = server
            .tls_config(tls)
            .context("the certificate or its key is not valid")?;
        scheme = "https";
    }
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}"))?;
    let bound = listener.local_addr().context("a socket has an address")?;
    println!("listening on {scheme}://{bound}");
    let router = server.add_service(broker.service());
    router
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .context("failed to serve")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_of_a_car_is_said_with_its_release() {
        assert_eq!(car("cars/a=b/s=5"), Ok(("cars/a=b/s".into(), Release::V5)));
        for (text, says) in [("cars/ada", "which release"), ("cars/ada=7", "'7' is no release")] {
            let why = car(text).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
