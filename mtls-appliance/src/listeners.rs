//! The listening sockets: opened here, passed by the service manager, or handed over by the appliance that ran before.
//!
//! They are never closed and made again while somebody could connect: closing a listening socket resets what waits in
//! its queue, and `SO_REUSEPORT` beside it would not save that.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};

use crate::app::Failure;

/// Pending connections that the kernel keeps for us, at most (`net.core.somaxconn` may be lower).
pub(crate) const BACKLOG: i32 = 4096;

/// A descriptor from elsewhere, and what to call it in a message.
#[derive(Debug)]
pub(crate) struct Passed {
    name: String,
    descriptor: OwnedFd,
}

/// Where the listening sockets come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Opened by this process.
    Own,
    /// Passed by the service manager.
    Activation(Vec<Passed>),
    /// Handed over by the appliance that ran before.
    Predecessor(Vec<OwnedFd>),
}

/// Opens, or finds among those passed, one socket for each address.
///
/// # Errors
/// An address cannot be listened on, or the sockets that were passed are not the ones configured.
pub(crate) fn listeners(addresses: &[SocketAddr], source: Source) -> Result<Vec<TcpListener>, Failure> {
    match source {
        Source::Own => addresses.iter().map(|&address| open(address)).collect(),
        Source::Activation(passed) => activated(addresses, passed),
        Source::Predecessor(sockets) => handed_over(addresses, sockets),
    }
}

/// What the service manager passed (sd_listen_fds(3)), if it passed anything to this process.
///
/// # Errors
/// The environment names what is not there.
pub(crate) fn passed_by_service_manager() -> Result<Option<Vec<Passed>>, Failure> {
    let broken = |problem: &dyn std::fmt::Display| {
        Failure::Environment(format!(
            "LISTEN_PID, LISTEN_FDS: {problem}\n  let the service manager set them, or start without them"
        ))
    };
    // Looks at every descriptor and keeps programs that are started later from inheriting it.
    let count = sd_notify::listen_fds().map_err(|error| broken(&error))?.len();
    if count == 0 {
        return Ok(None);
    }
    let passed = sd_listen_fds::get().map_err(|error| broken(&error))?;
    let named = passed.into_iter().zip(3..).map(|((name, descriptor), number)| {
        let name = name.filter(|name| !name.is_empty()).map(|name| format!(" ({name})")).unwrap_or_default();
        Passed { name: format!("descriptor {number}{name}"), descriptor: descriptor.into_std() }
    });
    Ok(Some(named.collect()))
}

/// Exactly the configured sockets have to be passed; every mismatch is reported.
fn activated(addresses: &[SocketAddr], passed: Vec<Passed>) -> Result<Vec<TcpListener>, Failure> {
    let mut problems = Vec::new();
    let mut found: Vec<Option<TcpListener>> = addresses.iter().map(|_| None).collect();
    for Passed { name, descriptor } in passed {
        match usable(descriptor) {
            Err(problem) => problems.push(format!("{name}: {problem}")),
            Ok((address, listener)) => match addresses.iter().position(|wanted| *wanted == address) {
                None => problems.push(format!(
                    "{name} listens on {address}, which is not in listener.addresses\n    add it there, or remove \
                     ListenStream={address} from the socket unit"
                )),
                Some(index) if found[index].is_some() => {
                    problems.push(format!("{name} listens on {address}, as another one does\n    pass one of them"));
                }
                Some(index) => found[index] = Some(listener),
            },
        }
    }
    for (address, _) in addresses.iter().zip(&found).filter(|(_, found)| found.is_none()) {
        problems.push(format!(
            "listener.addresses: no socket was passed that listens on {address}\n    add ListenStream={address} to the \
             socket unit, or remove the address"
        ));
    }
    if problems.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    Err(Failure::Environment(format!(
        "the sockets that the service manager passed are not those of listener.addresses:\n  {}",
        problems.join("\n  ")
    )))
}

/// Sockets for addresses that are no longer wanted are closed here, and new addresses are opened.
fn handed_over(addresses: &[SocketAddr], sockets: Vec<OwnedFd>) -> Result<Vec<TcpListener>, Failure> {
    let mut usable = sockets.into_iter().map(usable).collect::<Result<Vec<_>, _>>().map_err(|problem| {
        Failure::Environment(format!(
            "--take-over: what the running appliance handed over cannot be used: {problem}\n  stop it, and start this one \
             without --take-over"
        ))
    })?;
    addresses
        .iter()
        .map(|&wanted| match usable.iter().position(|(address, _)| *address == wanted) {
            Some(index) => Ok(usable.swap_remove(index).1),
            None => open(wanted),
        })
        .collect()
}

/// The listener and its address, when it is one that this appliance would have opened.
fn usable(descriptor: OwnedFd) -> Result<(SocketAddr, TcpListener), String> {
    let kind = sockopt::socket_type(&descriptor).map_err(|_| "it is no socket\n    pass listening sockets alone")?;
    let family = sockopt::socket_domain(&descriptor).map_err(|error| error.to_string())?;
    let protocol = sockopt::socket_protocol(&descriptor).map_err(|error| error.to_string())?;
    let internet = [AddressFamily::INET, AddressFamily::INET6].contains(&family);
    if kind != SocketType::STREAM || !internet || protocol != Some(ipproto::TCP) {
        return Err("it is no TCP socket\n    use ListenStream= with address and port".to_owned());
    }
    if !sockopt::socket_acceptconn(&descriptor).map_err(|error| error.to_string())? {
        return Err("it does not listen\n    a socket unit needs Accept=no".to_owned());
    }
    let dual =
        family == AddressFamily::INET6 && !sockopt::ipv6_v6only(&descriptor).map_err(|error| error.to_string())?;
    let listener = TcpListener::from(descriptor);
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    if dual && address.ip().is_unspecified() {
        return Err(format!(
            "it listens on {address} for IPv4 too\n    set BindIPv6Only=ipv6-only, and list 0.0.0.0:{} beside it",
            address.port()
        ));
    }
    let prepare = || -> io::Result<()> {
        fcntl_setfd(listener.as_fd(), FdFlags::CLOEXEC)?;
        listener.set_nonblocking(true)
    };
    prepare().map_err(|error| error.to_string())?;
    Ok((address, listener))
}

fn open(address: SocketAddr) -> Result<TcpListener, Failure> {
    let open = || -> io::Result<TcpListener> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if address.is_ipv6() {
            // `[::]` means IPv6 alone, so that `0.0.0.0` can be listed beside it.
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &address)?;
        listen(&socket, BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "another process listens there (see: ss -ltnp 'sport = :{}'); stop it or choose another port",
                    address.port()
                )
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have the address; see: ip address".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE; run as a service with it, or choose a higher port"
                    .to_owned()
            }
            _ => "choose another address".to_owned(),
        };
        Failure::Environment(format!("listener.addresses: {address}: cannot listen: {error}\n  {remedy}"))
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn passed(name: &str, descriptor: impl Into<OwnedFd>) -> Passed {
        Passed { name: name.to_owned(), descriptor: descriptor.into() }
    }

    fn listener() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    #[test]
    fn passed_sockets_are_taken_in_the_order_of_the_addresses() {
        let ((first, one), (second, two)) = (listener(), listener());
        let sockets = activated(&[second, first], vec![passed("a", one), passed("b", two)]).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, [second, first]);
        let error = sockets[0].accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "it would block the worker");
    }

    #[test]
    fn every_mismatch_of_passed_sockets_is_reported_with_its_name() {
        let (wanted, one) = listener();
        let (surplus, other) = listener();
        let missing = "127.0.0.1:1".parse().unwrap();
        let connected = TcpStream::connect(surplus).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(std::env::temp_dir().join(format!("unix-{}", std::process::id()))).unwrap();
        let dual = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_ipv6_v6only(&dual, false).unwrap();
        bind(&dual, &"[::]:0".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&dual, 1).unwrap();
        let all = vec![
            passed("again", one.try_clone().unwrap()),
            passed("good", one),
            passed("surplus", other),
            passed("connected", connected),
            passed("udp", udp),
            passed("unix", unix),
            passed("file", std::fs::File::open("/dev/null").unwrap()),
            passed("dual", dual),
        ];
        let text = activated(&[wanted, missing], all).unwrap_err().to_string();
        let _ = std::fs::remove_file(std::env::temp_dir().join(format!("unix-{}", std::process::id())));
        for part in [
            &format!("good listens on {wanted}, as another one does"),
            &format!("surplus listens on {surplus}, which is not in listener.addresses"),
            "connected: it does not listen",
            "udp: it is no TCP socket",
            "unix: it is no TCP socket",
            "file: it is no socket",
            "dual: it listens on [::]:",
            "BindIPv6Only=ipv6-only",
            "no socket was passed that listens on 127.0.0.1:1",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!text.contains("again"), "{text}");
    }

    #[test]
    fn of_sockets_handed_over_those_wanted_are_kept_and_the_others_closed() {
        let ((kept, one), (unwanted, two)) = (listener(), listener());
        let (added, free) = listener();
        drop(free);
        // What waits in the queue is not lost.
        let caller = TcpStream::connect(kept).unwrap();
        let sockets = handed_over(&[added, kept], vec![one.into(), two.into()]).unwrap();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert_eq!(addresses, [added, kept]);
        assert_eq!(sockets[1].accept().unwrap().1, caller.local_addr().unwrap());
        assert!(TcpStream::connect(unwanted).is_err());
    }
}
