//! SRV records (RFC 2782) of a name, turned into addresses.
//!
//! Owns how many of them are looked at. Plain sequential code; a resolver lives no longer than one attempt, because it
//! takes more memory than a node that idles.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::SRV;

/// Hosts looked up of one name, the preferred ones first: a node needs one of them.
const MAX_TARGETS: usize = 16;
/// Addresses taken of one host: more than one of a family is rare.
const MAX_ADDRESSES: usize = 8;

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum SrvError {
    /// Nobody to ask.
    #[error("the system's resolver configuration cannot be used: {0}")]
    System(NetError),
    /// No answer, or that there are none.
    #[error("its SRV records cannot be had: {0}")]
    Records(NetError),
    /// RFC 2782: a target of "." says so.
    #[error("the service is decidedly not available at this domain")]
    NotOffered,
    /// None of the targets has an address.
    #[error("none of the hosts its SRV records name has an address: {0}")]
    Targets(String),
}

/// Asks as the system is configured.
pub(super) async fn find(name: &str) -> Result<Vec<SocketAddr>, SrvError> {
    let mut builder = TokioResolver::builder_tokio().map_err(SrvError::System)?;
    // Nothing is asked twice.
    builder.options_mut().cache_size = 0;
    let resolver = builder.build().map_err(SrvError::System)?;
    look_up(&resolver, name).await
}

/// All addresses of all targets: each is as good to start from, so priority and weight only say whom to leave out
/// where there are too many.
async fn look_up(resolver: &TokioResolver, name: &str) -> Result<Vec<SocketAddr>, SrvError> {
    let answer = resolver.srv_lookup(name).await.map_err(SrvError::Records)?;
    let records = answer.answers().iter();
    let srv = |data: &RData| if let RData::SRV(srv) = data { Some(srv.clone()) } else { None };
    let mut targets: Vec<SRV> = records.filter_map(|r| srv(&r.data)).collect();
    targets.retain(|target| !target.target.is_root() && target.port != 0);
    if targets.is_empty() {
        return Err(SrvError::NotOffered);
    }
    targets.sort_by_key(|target| (target.priority, Reverse(target.weight)));
    let (mut addrs, mut without) = (Vec::new(), Vec::new());
    for target in targets.into_iter().take(MAX_TARGETS) {
        match resolver.lookup_ip(target.target.clone()).await {
            Ok(ips) => {
                let ips: Vec<IpAddr> = ips.iter().take(MAX_ADDRESSES).collect();
                addrs.extend(ips.into_iter().map(|ip| SocketAddr::new(ip, target.port)));
            }
            Err(error) => {
                tracing::debug!(name, target = %target.target, %error, "a host of SRV records has no address");
                without.push(target.target.to_string());
            }
        }
    }
    if addrs.is_empty() { Err(SrvError::Targets(without.join(", "))) } else { Ok(addrs) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::Resolver;
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{Name, Record};
    use std::net::Ipv4Addr;
    use tokio::net::UdpSocket;

    fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
        RData::SRV(SRV::new(priority, weight, port, Name::from_ascii(target).unwrap()))
    }

    /// A zone of these records, answered on loopback for as long as the runtime lives.
    async fn zone(records: Vec<(String, RData)>) -> TokioResolver {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let query = asked.queries[0].clone();
                let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
                answer.metadata.recursion_available = true;
                for (owner, data) in &records {
                    if query.name == Name::from_ascii(owner).unwrap()
                        && data.record_type() == query.query_type
                    {
                        answer.add_answer(Record::from_rdata(query.name.clone(), 60, data.clone()));
                    }
                }
                if answer.answers.is_empty()
                    && !records.iter().any(|(o, _)| query.name == Name::from_ascii(o).unwrap())
                {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.add_query(query);
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, vec![], vec![server]);
        Resolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap()
    }

    const NAME: &str = "_dhtget._udp.corp.example";

    #[tokio::test]
    async fn all_addresses_of_all_targets_come_the_preferred_ones_first() {
        let owner = || format!("{NAME}.");
        let resolver = zone(vec![
            (owner(), srv(20, 0, 7003, "c.corp.example.")),
            (owner(), srv(10, 1, 7002, "b.corp.example.")),
            (owner(), srv(10, 9, 7001, "a.corp.example.")),
            (owner(), srv(5, 0, 7000, "gone.corp.example.")),
            ("a.corp.example.".into(), RData::A(A::new(10, 0, 0, 1))),
            ("a.corp.example.".into(), RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))),
            ("b.corp.example.".into(), RData::A(A::new(10, 0, 0, 2))),
            ("c.corp.example.".into(), RData::AAAA(AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 3))),
        ])
        .await;
        let mut found = look_up(&resolver, NAME).await.unwrap();
        // The order of a host's own addresses is the resolver's.
        found[..2].sort();
        let expected = ["10.0.0.1:7001", "[fd00::1]:7001", "10.0.0.2:7002", "[fd00::3]:7003"];
        assert_eq!(found, expected.map(|a| a.parse().unwrap()));
    }

    #[tokio::test]
    async fn what_leads_nowhere_says_why() {
        let none = look_up(&zone(vec![]).await, NAME).await.unwrap_err();
        assert!(matches!(none, SrvError::Records(_)), "{none}");
        let resolver = zone(vec![(format!("{NAME}."), srv(0, 0, 0, "."))]).await;
        let not_offered = look_up(&resolver, NAME).await.unwrap_err();
        assert!(matches!(not_offered, SrvError::NotOffered), "{not_offered}");
        let resolver = zone(vec![(format!("{NAME}."), srv(0, 0, 1, "gone.corp.example."))]).await;
        let without = look_up(&resolver, NAME).await.unwrap_err();
        assert!(without.to_string().contains("gone.corp.example"), "{without}");
    }

    #[tokio::test]
    async fn of_many_targets_the_preferred_ones_are_looked_up() {
        let mut records = vec![("h.corp.example.".to_owned(), RData::A(A::new(10, 0, 0, 1)))];
        records.extend((0..20).map(|n| (format!("{NAME}."), srv(100 - n, 0, 7000 + n, "h.corp.example."))));
        let found = look_up(&zone(records).await, NAME).await.unwrap();
        let expected: Vec<u16> = (0..MAX_TARGETS as u16).map(|n| 7019 - n).collect();
        assert_eq!(found.iter().map(SocketAddr::port).collect::<Vec<_>>(), expected);
    }
}
