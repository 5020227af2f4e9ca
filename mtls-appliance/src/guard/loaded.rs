//! The program in the kernel, attached to nothing: for asking it about single packets.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use mtls_appliance_common::layout::PROGRAM;

use super::error::chain;
use super::pinned::verdict;
use super::tables::Tables;
use super::{DropLog, EventStream, GuardCounters, GuardError, Sample, Verdict, contents, environment, object};
use crate::config;
use crate::registry::Registry;

/// The program and its maps, loaded but not attached: packets are run through it one by one.
#[derive(Debug)]
pub struct LoadedGuard {
    ebpf: Ebpf,
    tables: Mutex<Tables>,
    log: Mutex<Option<DropLog>>,
    events: Mutex<EventStream>,
}

impl LoadedGuard {
    /// Loads the program with these ports and this registry. Neither the interface nor the pins of `config` are looked at.
    ///
    /// # Errors
    /// Missing capabilities, a kernel without BPF, a verifier that refuses.
    pub fn load(config: &config::Guard, registry: &Registry) -> Result<LoadedGuard, GuardError> {
        environment::check_privileges()?;
        let mut ebpf = load_object(&mut EbpfLoader::new())?;
        load_program(&mut ebpf)?;
        let log = DropLog::take(&mut ebpf, None)?;
        let events = Mutex::new(EventStream::take(&mut ebpf)?);
        let tables = Tables::take(&mut ebpf)?;
        let guard = LoadedGuard { ebpf, tables: Mutex::new(tables), log: Mutex::new(Some(log)), events };
        guard.beat()?;
        guard.update(config, registry)?;
        Ok(guard)
    }

    /// As [`super::Guards::update`].
    ///
    /// # Errors
    /// When the registry is too large or the kernel refuses.
    pub fn update(&self, config: &config::Guard, registry: &Registry) -> Result<(), GuardError> {
        let mut tables = self.tables();
        let filled = tables.fill(contents(config, registry))?;
        tables.activate(filled)
    }

    /// As [`super::Guard::beat`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn beat(&self) -> Result<(), GuardError> {
        self.tables().beat()
    }

    /// Runs the program over a packet, `repeat` times: what it returned (`XDP_DROP` is 1, `XDP_PASS` 2) and how long one run
    /// took on average.
    ///
    /// # Errors
    /// When the kernel refuses: it wants at least an Ethernet header and at most a page.
    pub fn run(&self, packet: &[u8], repeat: u32) -> Result<(u32, Duration), GuardError> {
        let result = self
            .program()?
            .test_run(TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::default() })
            .map_err(GuardError::kernel("running the program over a packet"))?;
        Ok((result.return_value, result.duration))
    }

    /// As [`super::PinnedGuard::judge`].
    ///
    /// # Errors
    /// When the kernel does not let the maps be read.
    pub fn judge(&self, packet: &[u8]) -> Result<Verdict, GuardError> {
        verdict(&self.tables(), packet)
    }

    /// As [`super::Guard::counters`].
    ///
    /// # Errors
    /// When the kernel does not let them be read.
    pub fn counters(&self) -> Result<GuardCounters, GuardError> {
        self.tables().counters()
    }

    /// The sampled events since the last call.
    pub fn events(&self) -> Vec<Sample> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner).waiting();
        let tables = self.tables();
        events.iter().map(|event| Sample::of(event, "", &tables)).collect()
    }

    /// As [`super::Guard::log_stream`].
    pub fn log_stream(&self) -> Option<DropLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How many instructions the verifier looked at; `None` before Linux 5.16.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn verified_instructions(&self) -> Result<Option<u32>, GuardError> {
        let info = self.program()?.info().map_err(GuardError::kernel("asking about the program"))?;
        Ok(info.verified_instruction_count())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn program(&self) -> Result<&Xdp, GuardError> {
        let doing = "looking for the program in its object";
        let program = self.ebpf.program(PROGRAM).ok_or(ProgramError::UnexpectedProgramType);
        program.and_then(TryInto::try_into).map_err(GuardError::kernel(doing))
    }
}

/// Creates or reuses the maps.
pub(super) fn load_object(loader: &mut EbpfLoader<'_>) -> Result<Ebpf, GuardError> {
    loader.load(object::required()?).map_err(|error| {
        let message = chain(&error);
        if message.contains("os error 38") || message.contains("os error 1)") {
            GuardError::NoBpf(message)
        } else {
            GuardError::Load(message)
        }
    })
}

/// Lets the kernel verify the program.
pub(super) fn load_program(ebpf: &mut Ebpf) -> Result<(), GuardError> {
    program(ebpf)?.load().map_err(|error| match &error {
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            GuardError::NoBpf(io_error.to_string())
        }
        _ => GuardError::Load(chain(&error)),
    })
}

pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, GuardError> {
    ebpf.program_mut(PROGRAM)
        .ok_or(ProgramError::UnexpectedProgramType)
        .and_then(TryInto::try_into)
        .map_err(GuardError::kernel("looking for the program in its object"))
}
