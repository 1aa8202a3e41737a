//! Acting from within a Pod's network, so that nothing of the car has to be reachable for a program.
//!
//! Called for probes and hooks, which connect to the Pod, and for the Pod's proxy, which listens there. What is made there stays there, whoever
//! uses it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

/// Does something in the network of a process. The error is a sentence.
async fn within<T: Send + 'static>(
    process: Pid,
    act: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>, String> {
    let path = format!("/proc/{}/ns/net", process.as_raw_pid());
    let (tell, told) = oneshot::channel();
    // A thread stays in the network that it has entered, so it is one of its own and ends.
    std::thread::Builder::new()
        .name("network".to_owned())
        .spawn(move || {
            let entered = fs::File::open(path).and_then(|space| {
                Ok(move_into_link_name_space(
                    space.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?)
            });
            // Whoever asked may have stopped waiting.
            let _ = tell.send(entered.map(|()| act()));
        })
        .map_err(|e| e.to_string())?;
    let done = told
        .await
        .map_err(|_| "the thread in the Pod's network is gone".to_owned())?;
    done.map_err(|e| format!("the Pod's network cannot be entered: {e}"))
}

/// Connects to a port of a Pod.
pub(super) async fn connect(process: Pid, address: IpAddr, port: u16, limit: Duration) -> Result<TcpStream, String> {
    let connected = within(process, move || {
        TcpStream::connect_timeout(&SocketAddr::new(address, port), limit)
    });
    connected
        .await?
        .map_err(|e| format!("failed to connect to port {port}: {e}"))
}

/// Listens on a Pod's loopback, at a port that the kernel chooses.
pub(super) async fn listen(process: Pid) -> Result<TcpListener, String> {
    let listening = within(process, || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    listening
        .await?
        .map_err(|e| format!("failed to listen in the Pod's network: {e}"))
}
