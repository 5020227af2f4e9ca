//! Looks the names of origins up, again and again: an operator moves an API server by changing its name's address.
//!
//! A look-up that fails changes nothing; the addresses known so far stay in use and the failure is logged.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use serde_json::json;
use tokio::time::timeout;

use super::Upstream;
use crate::app::{Live, Shared};
use crate::config::Resolver;
use crate::telemetry::Level;

/// Attempts of one look-up.
const ATTEMPTS: usize = 2;

/// Looks up one name. The system's configuration is read anew each time, so that a change of it takes effect.
async fn look_up(settings: &Resolver, name: &str) -> Result<Vec<IpAddr>, String> {
    let builder = match &settings.servers {
        Some(servers) => {
            let servers = servers.iter().map(|address| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                NameServerConfig::new(address.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect::<Vec<_>>());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }
        // Without servers there is still the hosts file.
        None => TokioResolver::builder_tokio().unwrap_or_else(|_| {
            let config = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        }),
    };
    let mut builder = builder;
    tune(builder.options_mut(), settings.timeout);
    let resolver = builder.build().map_err(|error| error.to_string())?;
    let every = settings.timeout.saturating_mul(u32::try_from(ATTEMPTS + 1).unwrap_or(u32::MAX));
    match timeout(every, resolver.lookup_ip(name)).await {
        Ok(Ok(found)) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn tune(options: &mut ResolverOpts, patience: Duration) {
    options.timeout = patience;
    options.attempts = ATTEMPTS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // Each look-up is a fresh one.
    options.cache_size = 0;
}

/// What one look-up of a name came to.
pub(crate) enum LookedUp {
    /// Nothing new.
    Same,
    /// Other addresses than before.
    Changed(Vec<IpAddr>),
    /// Nothing; why.
    Failed(String),
}

/// Looks a name of `upstream` up and puts its addresses in force.
pub(crate) async fn refresh(settings: &Resolver, upstream: &Upstream, name: &str) -> LookedUp {
    match look_up(settings, name).await {
        Ok(addresses) if upstream.resolved(name, addresses.clone()) => LookedUp::Changed(addresses),
        Ok(_) => LookedUp::Same,
        Err(detail) => LookedUp::Failed(detail),
    }
}

/// The same, with the log told.
pub(crate) async fn refresh_and_report(shared: &Shared, settings: &Resolver, upstream: &Upstream, name: &str) {
    let outcome = refresh(settings, upstream, name).await;
    report(shared, upstream, name, outcome);
}

fn report(shared: &Shared, upstream: &Upstream, name: &str, outcome: LookedUp) {
    let origin = &upstream.config.name;
    match outcome {
        LookedUp::Same => {}
        LookedUp::Changed(addresses) => {
            let event = json!({ "origin": origin, "name": name, "addresses": addresses });
            shared.log.event(Level::Info, "origin_resolved", event);
        }
        LookedUp::Failed(detail) => {
            shared.counters.refuse("origin_unresolved", "lookup_failed");
            let event = json!({ "origin": origin, "name": name, "reason": "lookup_failed", "detail": detail });
            shared.log.event(Level::Warn, "origin_unresolved", event);
        }
    }
}

/// Looks up, all at once, the names of a configuration that nothing is known about yet. Ends in time whatever happens.
pub(crate) async fn new_names(shared: &Shared, live: &Live) {
    let settings = &live.config.resolver;
    let mut look_ups = tokio::task::JoinSet::new();
    for upstream in &live.origins {
        for name in upstream.names_to_resolve().filter(|name| !upstream.is_known(name)) {
            let (settings, name) = (settings.clone(), name.to_owned());
            let upstream = Arc::clone(upstream);
            look_ups.spawn(async move {
                let outcome = refresh(&settings, &upstream, &name).await;
                (upstream, name, outcome)
            });
        }
    }
    while let Some(ended) = look_ups.join_next().await {
        if let Ok((upstream, name, outcome)) = ended {
            report(shared, &upstream, &name, outcome);
        }
    }
}
