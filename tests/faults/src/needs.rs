//! What a case rests on that may not be there yet.

use std::fmt;

/// The one list of what this tree does not have yet. A case that needs one of these is shown as waiting for it and is run
/// only when asked for (`--even-missing`). Whoever adds a feature removes it here; nothing else has to be changed.
pub(crate) const MISSING: &[Feature] = &[
    Feature::Keeper,
    Feature::LostWorkers,
    Feature::PausedWorkers,
];

/// A part of scitq that a case cannot succeed without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Running tasks outlive the worker's agent, which adopts them when it starts again (D10).
    Keeper,
    /// `scitq-ctl worker lost NAME --force`: a worker's attempts are declared lost (D7).
    LostWorkers,
    /// Dispatches that no queue and no worker has any more are found (D12).
    RollCall,
    /// A worker that only fails is paused before it eats the series (D13).
    PausedWorkers,
}

impl fmt::Display for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Keeper => "the adoption of running tasks",
            Self::LostWorkers => "lost workers",
            Self::RollCall => "the roll call",
            Self::PausedWorkers => "the pause of a worker that only fails",
        })
    }
}

/// Which of these needs are not met.
pub(crate) fn missing(needs: &[Feature]) -> Vec<Feature> {
    let missing = |feature: &&Feature| MISSING.contains(feature);
    needs.iter().filter(missing).copied().collect()
}
