//! Whose request is it, by address? Read from `X-Forwarded-For` only as far as trusted proxies vouch for it.
//!
//! Each proxy adds, at the right end, the address from which the request reached it. What stands left of the first address
//! that is no trusted proxy's was written by the client itself. What cannot be read where the client's address should
//! stand is no client IP, never a guess.

use std::net::{IpAddr, SocketAddr};

use http::{Extensions, HeaderMap, HeaderValue};
use ipnet::IpNet;

const HEADER: &str = "x-forwarded-for";
/// In all lines together; of more there is no client IP.
const MAX_ELEMENTS: usize = 32;

/// The address of the connection's other end, which a server that is not axum puts among a request's extensions.
///
/// With axum: `into_make_service_with_connect_info::<SocketAddr>()`, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Peer {
    pub(super) fn of(extensions: &Extensions) -> Option<Self> {
        #[cfg(feature = "axum")]
        if let Some(info) = extensions.get::<::axum::extract::ConnectInfo<SocketAddr>>() {
            return Some(Self(info.0.ip()));
        }
        extensions.get::<Self>().copied()
    }
}

/// Find the client IP; none where there is none that can be believed.
pub(super) fn find(peer: Option<Peer>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let peer = peer?.0.to_canonical();
    if !is_trusted(&peer) {
        return Some(peer);
    }
    let lines: Vec<_> = headers.get_all(HEADER).iter().collect();
    let elements = |line: &&HeaderValue| line.as_bytes().split(|byte| *byte == b',').count();
    if lines.iter().map(elements).sum::<usize>() > MAX_ELEMENTS {
        return None;
    }
    for line in lines.into_iter().rev() {
        // A line that is no text has no readable address at its right end.
        let line = line.to_str().ok()?;
        for element in line.rsplit(',') {
            let address = read(element.trim_matches([' ', '\t']))?;
            if !is_trusted(&address) {
                return Some(address);
            }
        }
    }
    None
}

/// Read `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn read(text: &str) -> Option<IpAddr> {
    if text.contains('%') {
        return None;
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => text.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip())).ok()?,
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, lines: &[&str], trusted: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, line.parse().unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        find(Some(Peer(peer.parse().unwrap())), &headers, &trusted).map(|ip| ip.to_string())
    }

    #[test]
    fn a_header_is_not_believed_without_trusted_proxies() {
        assert_eq!(found("192.0.2.1", &["203.0.113.7"], &[]).unwrap(), "192.0.2.1");
    }

    #[test]
    fn a_header_is_not_believed_of_a_peer_that_is_no_trusted_proxy() {
        assert_eq!(found("192.0.2.1", &["203.0.113.7"], &["10.0.0.0/8"]).unwrap(), "192.0.2.1");
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let lines = ["198.51.100.9, 203.0.113.7", "10.0.0.2"];
        assert_eq!(found("10.0.0.1", &lines, &["10.0.0.0/8"]).unwrap(), "203.0.113.7");
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        assert_eq!(
            found("::ffff:10.0.0.1", &["::ffff:203.0.113.7"], &["10.0.0.0/8"]).unwrap(),
            "203.0.113.7"
        );
    }

    #[test]
    fn addresses_are_read_in_all_their_spellings() {
        for (element, address) in [
            ("203.0.113.7:4711", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
        ] {
            assert_eq!(found("10.0.0.1", &[element], &["10.0.0.1/32"]).unwrap(), address);
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_client_and_neither_is_what_stands_before_it() {
        for element in ["203.0.113.7, unknown", "203.0.113.7,", "203.0.113.7, [::1%1]:80", "[192.0.2.1]"] {
            assert_eq!(found("10.0.0.1", &[element], &["10.0.0.1/32"]), None, "{element}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_never_a_client() {
        assert_eq!(found("10.0.0.1", &[], &["10.0.0.0/8"]), None);
        assert_eq!(found("10.0.0.1", &["10.0.0.3"], &["10.0.0.0/8"]), None);
    }

    #[test]
    fn a_list_without_end_is_not_read_to_its_end() {
        let long = format!("203.0.113.7{}", ", 10.0.0.1".repeat(MAX_ELEMENTS));
        assert_eq!(found("10.0.0.1", &[&long], &["10.0.0.0/8"]), None);
        let mut lines = ["10.0.0.1"; MAX_ELEMENTS + 1];
        lines[0] = "203.0.113.7";
        assert_eq!(found("10.0.0.1", &lines, &["10.0.0.0/8"]), None);
        assert_eq!(
            found("10.0.0.1", &[&lines[..1], &lines[2..]].concat(), &["10.0.0.0/8"]).unwrap(),
            lines[0]
        );
    }

    #[test]
    fn without_a_peer_there_is_no_client() {
        assert_eq!(find(None, &HeaderMap::new(), &[]), None);
    }
}
