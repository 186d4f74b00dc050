//! Confirmations of one channel that wait until consumers have settled the message.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::confirmation::{Confirmation, PublishFailure};
use crate::error::BrokerError;
use crate::message::ChannelId;

/// Names an outstanding confirmation from inside a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfirmKey {
    pub(super) channel: ChannelId,
    sequence: u64,
}

/// What a channel still owes its publishers.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    last_sequence: u64,
    outstanding: HashMap<u64, Outstanding>,
}

#[derive(Debug)]
struct Outstanding {
    copies: usize,
    sender: oneshot::Sender<Result<(), PublishFailure>>,
}

impl Confirms {
    /// Opens a confirmation that completes once `copies` queues have settled the message.
    pub(super) fn open(&mut self, channel: ChannelId, copies: usize) -> (ConfirmKey, Confirmation) {
        let (sender, confirmation) = Confirmation::waiting();
        self.last_sequence += 1;
        self.outstanding
            .insert(self.last_sequence, Outstanding { copies, sender });
        (
            ConfirmKey {
                channel,
                sequence: self.last_sequence,
            },
            confirmation,
        )
    }

    /// One queue is done with the message.
    pub(super) fn settle(&mut self, key: ConfirmKey) {
        if let Some(outstanding) = self.outstanding.get_mut(&key.sequence) {
            outstanding.copies -= 1;
            if outstanding.copies == 0 {
                self.answer(key, Ok(()));
            }
        }
    }

    /// One queue could not keep the message.
    pub(super) fn refuse(&mut self, key: ConfirmKey) {
        self.answer(key, Err(PublishFailure::Refused));
    }

    /// The channel is gone: nobody will ever answer.
    pub(super) fn lose(self, reason: &BrokerError) {
        for outstanding in self.outstanding.into_values() {
            // The publisher may have stopped waiting.
            let _ = outstanding
                .sender
                .send(Err(PublishFailure::Lost(reason.clone())));
        }
    }

    fn answer(&mut self, key: ConfirmKey, outcome: Result<(), PublishFailure>) {
        if let Some(outstanding) = self.outstanding.remove(&key.sequence) {
            // The publisher may have stopped waiting.
            let _ = outstanding.sender.send(outcome);
        }
    }
}
