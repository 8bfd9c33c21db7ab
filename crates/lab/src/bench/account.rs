//! The kernel's account of processes on this machine: CPU, memory, and who listens on a port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Keys of the auxiliary vector: page size, and clock ticks per second.
const AT_PAGESZ: u64 = 6;
const AT_CLKTCK: u64 = 17;
/// State of a listening socket in the kernel's tables.
const LISTEN: &str = "0A";

/// In what units this kernel counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    ticks_per_second: u64,
    page_bytes: u64,
}

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time of all its threads; as exact as a clock tick, 10 ms mostly.
    pub(crate) cpu: Duration,
    /// Its resident set, in bytes.
    pub(crate) rss_bytes: u64,
}

impl Machine {
    /// Asks the kernel for its units.
    pub(crate) fn new() -> Result<Self, String> {
        let bytes = fs::read("/proc/self/auxv").map_err(|error| format!("auxv: {error}"))?;
        let (words, _) = bytes.as_chunks::<8>();
        let mut machine = Machine { ticks_per_second: 0, page_bytes: 0 };
        for [key, value] in words.as_chunks::<2>().0 {
            match u64::from_ne_bytes(*key) {
                AT_CLKTCK => machine.ticks_per_second = u64::from_ne_bytes(*value),
                AT_PAGESZ => machine.page_bytes = u64::from_ne_bytes(*value),
                _ => {}
            }
        }
        if machine.ticks_per_second == 0 || machine.page_bytes == 0 {
            return Err("this kernel does not know its clock tick and page size".into());
        }
        Ok(machine)
    }

    /// What a process has used so far.
    pub(crate) fn usage(&self, pid: u32) -> Result<Usage, String> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        // The name in parentheses may have spaces; what is counted stands behind it.
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<u64> =
            rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect();
        let (Some(user), Some(system), Some(pages)) =
            (fields.get(11), fields.get(12), fields.get(21))
        else {
            return Err(format!("{path} has an unknown form"));
        };
        let micros = (user + system) * 1_000_000 / self.ticks_per_second;
        Ok(Usage { cpu: Duration::from_micros(micros), rss_bytes: pages * self.page_bytes })
    }
}

/// The process that listens at an address of this machine, as far as we may know; `None` if the
/// address is another machine's.
pub(crate) fn listener(address: SocketAddr) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let inode = tables.iter().flatten().find_map(|table| {
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (local, state) = (parse(fields.get(1)?)?, *fields.get(3)?);
            let any = local.ip().is_unspecified() && address.ip().is_loopback();
            let here = local.port() == address.port() && (any || local.ip() == address.ip());
            (here && state == LISTEN).then(|| fields.get(9).map(|inode| (*inode).to_string()))?
        })
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok())
            .any(|link| link.to_str() == Some(&wanted))
    })
}

/// An address in the kernel's hexadecimal: 32-bit words in the machine's order, a colon, the port.
fn parse(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let (words, []) = ip.as_bytes().as_chunks::<8>() else { return None };
    let mut bytes = Vec::new();
    for word in words {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_port_and_has_used_something() {
        let listener_here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener_here.local_addr().unwrap();
        assert_eq!(listener(address), Some(std::process::id()));
        let elsewhere = SocketAddr::new("192.0.2.1".parse().unwrap(), address.port());
        assert_eq!(listener(elsewhere), None);
        let usage = Machine::new().unwrap().usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
        drop(listener_here);
        assert_eq!(listener(address), None);
    }

    #[test]
    fn the_kernels_addresses_are_understood() {
        let of = |text| parse(text).map(|address| address.to_string());
        assert_eq!(of("0100007F:1D08").as_deref(), Some("127.0.0.1:7432"));
        let six = "00000000000000000000000001000000:0050";
        assert_eq!(of(six).as_deref(), Some("[::1]:80"));
        assert_eq!((of("01007F:1D08"), of("x"), of("0100007F:x")), (None, None, None));
    }
}
