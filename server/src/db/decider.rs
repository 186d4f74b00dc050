use tokio::sync::{mpsc, oneshot};

use super::{DbError, Loaded, Projection};

/// A question: what was loaded, and where the answer goes, together with what was loaded.
pub(super) type Question = (Loaded, oneshot::Sender<(Projection, Loaded)>);

/// Asks the caller of a projection what is to be written. The transaction runs as a task of its own (see
/// [`super::Database`]), the decision is made where the caller is.
#[derive(Debug)]
pub(super) struct Decider {
    questions: mpsc::Sender<Question>,
}

impl Decider {
    /// A decider, and where its questions arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(1);
        (Self { questions }, asked)
    }

    /// Asks, and gives back what was loaded. Fails when the caller has gone: nothing is written then.
    pub(super) async fn decide(&self, loaded: Loaded) -> Result<(Projection, Loaded), DbError> {
        let gone = || DbError::Refused {
            reason: "nobody waits for the projection any more".to_owned(),
        };
        let (answer, answered) = oneshot::channel();
        self.questions
            .send((loaded, answer))
            .await
            .map_err(|_| gone())?;
        answered.await.map_err(|_| gone())
    }
}
