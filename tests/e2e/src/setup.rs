//! How a system is started.

/// What a test wants to be different from the defaults.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Slots of the first worker.
    pub concurrency: u16,
    /// Tasks that it keeps ready beyond those running.
    pub prefetch: u16,
    /// Further settings, `SCITQ_SECTION_KEY` and value, for all programs.
    pub settings: Vec<(&'static str, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            concurrency: 2,
            prefetch: 0,
            settings: Vec::new(),
        }
    }
}

impl Setup {
    /// The defaults with another number of slots.
    pub fn concurrency(concurrency: u16) -> Self {
        Self {
            concurrency,
            ..Self::default()
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }
}
