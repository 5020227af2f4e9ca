//! The guards of all configured interfaces, one for each, held together: attached all or none, reloaded all or none.
//!
//! Each has its own program, maps and pins, so that one that is in trouble takes none of the others along. What becomes of
//! one interface is [`Guard`]'s matter.

use std::sync::Arc;

use super::pins::Pins;
use super::{AttachTurn, Guard, GuardCounters, GuardError, OrganisationCount, attach, environment};
use crate::config;
use crate::registry::Registry;

/// At least one guard, in the order of `guard.interfaces`.
#[derive(Debug)]
pub struct Guards(Vec<Arc<Guard>>);

impl Guards {
    /// Attaches a guard to each of these interfaces, or takes over what an earlier run left there. Names what guards an
    /// interface that is not configured any more.
    ///
    /// Whether there is such an interface and whether it is free is looked at for all before the first is touched. Interfaces
    /// without a guard come first, so that what an earlier run left is touched only when nothing else can go wrong.
    ///
    /// # Errors
    /// Of the first that fails, see [`Guard::attach`]. What was newly attached is detached again; what was taken over guards
    /// on.
    pub fn attach(
        config: &config::Guard,
        interfaces: &[String],
        registry: &Registry,
        _turn: &AttachTurn,
    ) -> Result<Guards, GuardError> {
        let mut order = Vec::new();
        for interface in interfaces {
            order.push((attach::find_earlier(config, interface)?, interface));
        }
        order.sort_by_key(|(earlier, _)| *earlier);
        let mut attached: Vec<Arc<Guard>> = Vec::new();
        for (_, interface) in order {
            match Guard::attach(config, interface, registry) {
                Ok(guard) => attached.push(Arc::new(guard)),
                Err(error) => {
                    take_away(config, &attached);
                    return Err(error);
                }
            }
        }
        attached.sort_by_key(|guard| interfaces.iter().position(|interface| interface == guard.interface()));
        for interface in forgotten(config) {
            log::warn!(target: "guard", "{}", forgotten_warning(&interface));
        }
        Ok(Guards(attached))
    }

    /// Each.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Guard>> {
        self.0.iter()
    }

    /// Lets packets at every interface from now on be judged by this configuration and registry; as [`Guard::prepare`] and
    /// [`Guard::activate`].
    ///
    /// # Errors
    /// When the registry is too large or the kernel refuses, with the interface where it did. Before the first interface is
    /// switched over all have been filled, so that all go on with what they have. If the switch itself, which is one store,
    /// fails at one, the others are switched all the same.
    pub fn update(&self, config: &config::Guard, registry: &Registry) -> Result<(), GuardError> {
        let mut prepared = Vec::new();
        for guard in self.iter() {
            prepared.push(guard.prepare(config, registry).map_err(|error| error.at(guard.interface()))?);
        }
        let mut outcome = Ok(());
        for (guard, filled) in self.iter().zip(prepared) {
            let activated = guard.activate(filled, config).map_err(|error| error.at(guard.interface()));
            outcome = outcome.and(activated);
        }
        outcome
    }
}

/// Detaches what was newly attached.
fn take_away(config: &config::Guard, attached: &[Arc<Guard>]) {
    for guard in attached.iter().filter(|guard| !guard.taken_over) {
        if let Err(error) = Guard::detach_pinned(config, guard.interface()) {
            log::warn!(target: "guard", "{} stays guarded: {error}", guard.interface());
        }
    }
}

/// Interfaces that a guard of an earlier run guards although they are not configured.
pub fn forgotten(config: &config::Guard) -> Vec<String> {
    let pinned = Pins::interfaces(&config.pin_dir).into_iter().filter(|name| !config.interfaces.contains(name));
    pinned
        .filter(|name| {
            let link = Pins::new(&config.pin_dir, name).existing_link();
            let interface = environment::find_interface(name);
            matches!((link, interface), (Some((link, _)), Ok(interface)) if attach::holds(&link, &interface))
        })
        .collect()
}

/// What is to be said about one of those.
pub fn forgotten_warning(interface: &str) -> String {
    format!(
        "{interface} is not in guard.interfaces, and the guard of an earlier run still guards it by what it knew then: \
         `mtls-appliance guard detach --interface {interface}` removes it"
    )
}

impl GuardCounters {
    /// What was counted at several interfaces together.
    pub fn sum<'a>(each: impl IntoIterator<Item = &'a GuardCounters>) -> GuardCounters {
        let mut all = GuardCounters { reasons: Vec::new(), organisations: Vec::new() };
        for one in each {
            for count in &one.reasons {
                match all.reasons.iter_mut().find(|sum| sum.reason == count.reason) {
                    Some(sum) => {
                        sum.packets += count.packets;
                        sum.passed += count.passed;
                        sum.dropped += count.dropped;
                        sum.observed += count.observed;
                    }
                    None => all.reasons.push(count.clone()),
                }
            }
            for count in &one.organisations {
                all.add(count);
            }
        }
        all
    }

    fn add(&mut self, count: &OrganisationCount) {
        match self.organisations.iter_mut().find(|sum| sum.code == count.code) {
            Some(sum) => {
                sum.registered |= count.registered;
                sum.packets += count.packets;
                sum.over_budget += count.over_budget;
            }
            None => self.organisations.push(count.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::ReasonCount;

    #[test]
    fn counters_of_interfaces_are_added_by_reason_and_by_organisation() {
        let counters = |reason, dropped, code: &str, over_budget| GuardCounters {
            reasons: vec![ReasonCount { reason, packets: dropped + 1, passed: 1, dropped, observed: 0 }],
            organisations: vec![OrganisationCount {
                code: code.to_owned(),
                registered: over_budget == 0,
                packets: 10,
                over_budget,
            }],
        };
        let sum = GuardCounters::sum(&[
            counters("unregistered_source", 3, "A", 1),
            counters("unregistered_source", 4, "B", 0),
            counters("short_tcp", 5, "A", 0),
        ]);
        assert_eq!((sum.reason("unregistered_source"), sum.reason("short_tcp"), sum.dropped()), (9, 6, 12));
        assert_eq!((sum.organisation("A"), sum.organisation("B")), (20, 10));
        let [a, _] = &*sum.organisations else { panic!("{sum:?}") };
        assert!(a.registered && a.over_budget == 1);
        assert_eq!(GuardCounters::sum([]).dropped(), 0);
    }
}
