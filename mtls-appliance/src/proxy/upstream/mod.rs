//! An origin at run time: its addresses, which of them gets the next request, and the TLS towards all of them.
//!
//! Shared by all workers and kept over reloads, so that what was learnt about an address is not forgotten. Connections
//! are [`super::pool`]'s, names [`resolve`]'s, active checks [`check`]'s.

pub(crate) mod check;
pub(crate) mod resolve;
mod server;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

use crate::config::{Origin, OriginHost};
use crate::telemetry::{Counters, Level, Log};

pub(crate) use server::{Busy, Change, Mishap, Server, Witness};

/// Addresses of one name that are used.
const ADDRESSES_PER_NAME: usize = 64;

/// An address with its share.
#[derive(Debug, Clone)]
struct Member {
    server: Arc<Server>,
    weight: u32,
}

/// An origin.
#[derive(Debug)]
pub struct Upstream {
    /// As configured.
    pub config: Origin,
    /// TLS towards it.
    pub(crate) tls: Arc<ClientConfig>,
    /// The name that its certificates must have.
    pub(crate) server_name: ServerName<'static>,
    members: ArcSwap<Vec<Member>>,
    /// What the names stood for when they were looked up last.
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    turn: AtomicUsize,
}

impl Upstream {
    /// An origin; takes over what `before`, its predecessor of the same name, knew about addresses.
    pub(crate) fn new(
        config: Origin,
        tls: Arc<ClientConfig>,
        server_name: ServerName<'static>,
        before: Option<&Self>,
    ) -> Self {
        let names = before.map(|before| before.names().clone()).unwrap_or_default();
        let upstream = Self {
            config,
            tls,
            server_name,
            members: ArcSwap::default(),
            names: Mutex::new(names),
            turn: AtomicUsize::new(0),
        };
        let known = before.map(|before| before.members.load_full()).unwrap_or_default();
        upstream.rebuild(&known);
        if upstream.config.health.is_none() {
            upstream.members.load().iter().for_each(|member| member.server.unchecked());
        }
        upstream
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<String, Vec<IpAddr>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names that have to be looked up.
    pub(crate) fn names_to_resolve(&self) -> impl Iterator<Item = &str> {
        self.config.servers.iter().filter_map(|server| match &server.host {
            OriginHost::Name(name) => Some(&**name),
            OriginHost::Address(_) => None,
        })
    }

    /// Whether a name has been looked up with success before.
    pub(crate) fn is_known(&self, name: &str) -> bool {
        self.names().contains_key(name)
    }

    /// Puts the addresses of a name in force; `true` when they are others than before.
    pub(crate) fn resolved(&self, name: &str, mut addresses: Vec<IpAddr>) -> bool {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_PER_NAME);
        if self.names().insert(name.to_owned(), addresses.clone()).is_some_and(|before| before == addresses) {
            return false;
        }
        self.rebuild(&self.members.load_full());
        true
    }

    fn rebuild(&self, known: &[Member]) {
        let names = self.names();
        let mut members: Vec<Member> = Vec::new();
        for configured in &self.config.servers {
            let addresses: &[IpAddr] = match &configured.host {
                OriginHost::Address(ip) => std::slice::from_ref(ip),
                OriginHost::Name(name) => names.get(name).map(Vec::as_slice).unwrap_or_default(),
            };
            for ip in addresses {
                let address = SocketAddr::new(*ip, configured.port);
                if members.iter().any(|member| member.server.address == address) {
                    continue;
                }
                let same = |member: &&Member| {
                    member.server.address == address && member.server.limit == self.config.connections
                };
                let server = known.iter().find(same).map(|member| Arc::clone(&member.server));
                let server = server.unwrap_or_else(|| Server::new(address, self.config.connections));
                members.push(Member { server, weight: configured.weight });
            }
        }
        self.members.store(Arc::new(members));
    }

    /// All addresses.
    pub(crate) fn servers(&self) -> Vec<Arc<Server>> {
        self.members.load().iter().map(|member| Arc::clone(&member.server)).collect()
    }

    /// Whether no name of it could be looked up so far.
    pub(crate) fn is_unresolved(&self) -> bool {
        self.members.load().is_empty()
    }

    /// Whether another address than this one takes requests.
    pub(crate) fn has_spare(&self, server: &Server) -> bool {
        let now = Instant::now();
        self.members.load().iter().any(|member| member.server.id != server.id && member.server.takes_requests(now))
    }

    /// Chooses the address for a request: with room for a connection before without, then fewest requests under way for
    /// its weight, then in turn, by weight. None of `tried`.
    pub(crate) fn choose(&self, tried: &[u64]) -> Option<Busy> {
        let now = Instant::now();
        let members = self.members.load();
        if let ([only], []) = (members.as_slice(), tried) {
            return only.server.begin(now);
        }
        // Whose turn it is: each member has as many turns in a round as its weight.
        let weights: usize = members.iter().map(|member| member.weight as usize).sum();
        let mut turn = self.turn.fetch_add(1, Ordering::Relaxed) % weights.max(1);
        let next = members.iter().position(|member| {
            let here = turn < member.weight as usize;
            turn = turn.saturating_sub(member.weight as usize);
            here
        });
        let next = next.unwrap_or_default();
        let mut left: Vec<(bool, u64, usize, &Member)> = members
            .iter()
            .enumerate()
            .filter(|(_, member)| !tried.contains(&member.server.id) && member.server.takes_requests(now))
            .map(|(index, member)| {
                let load = member.server.busy() as u64 * 1_000_000 / u64::from(member.weight);
                let place = (index + members.len() - next) % members.len();
                (!member.server.has_slot(), load, place, member)
            })
            .collect();
        left.sort_unstable_by_key(|(full, load, place, _)| (*full, *load, *place));
        left.into_iter().find_map(|(.., member)| member.server.begin(now))
    }

    /// For `status`.
    pub(crate) fn status(&self) -> Value {
        let members = self.members.load();
        let addresses: Vec<Value> = members
            .iter()
            .map(|member| {
                let (state, problem) = member.server.state();
                json!({
                    "address": member.server.address.to_string(),
                    "weight": member.weight,
                    "state": state.name(),
                    "connections": member.server.connections(),
                    "requests": member.server.busy(),
                    "waiting": member.server.waiting(),
                    "last_problem": problem,
                })
            })
            .collect();
        let names = self.names();
        let unresolved: Vec<&str> =
            self.names_to_resolve().filter(|name| names.get(*name).is_none_or(Vec::is_empty)).collect();
        json!({ "name": self.config.name, "addresses": addresses, "unresolved": unresolved })
    }

    /// Logs and counts that an address went out or came back.
    pub(crate) fn report(&self, log: &Log, counters: &Counters, server: &Server, change: Change) {
        let (level, event, reason) = match change {
            Change::Out(reason) => {
                counters.refuse("origin_out", reason);
                (Level::Error, "origin_out", reason)
            }
            Change::Back(reason) => (Level::Info, "origin_back", reason),
        };
        let detail = server.state().1.filter(|_| matches!(change, Change::Out(_)));
        log.event(
            level,
            event,
            json!({
                "origin": self.config.name,
                "address": server.address.to_string(),
                "reason": reason,
                "detail": detail,
            }),
        );
    }
}
