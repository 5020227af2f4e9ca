//! A test: a function whose name is the sentence it shows.

use libtest_mimic::{Completion, Failed, Trial};
use mtls_appliance_tests::harness::{Lab, Skip};

/// One test of one module.
pub(crate) struct Case {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Lab) -> anyhow::Result<()>,
}

/// Lists a module's tests as `CASES`.
macro_rules! cases {
    ($module:literal: $($name:ident),+ $(,)?) => {
        pub(crate) const CASES: &[crate::case::Case] =
            &[$(crate::case::Case { module: $module, name: stringify!($name), run: $name }),+];
    };
}
pub(crate) use cases;

impl Case {
    /// The test as the runner takes it.
    pub(crate) fn trial(&'static self) -> Trial {
        Trial::ignorable_test(format!("{}::{}", self.module, self.name), || self.perform())
    }

    fn perform(&self) -> Result<Completion, Failed> {
        let lab = Lab::create().map_err(|error| format!("cannot prepare the test: {error:#}"))?;
        match (self.run)(&lab) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) => {
                    println!("skipped: {}::{}: {skip}", self.module, self.name);
                    Ok(Completion::ignored_with(skip))
                }
                None => Err(format!("{error:#}\n{}", lab.transcripts()).into()),
            },
        }
    }
}
