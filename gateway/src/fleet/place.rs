//! A request's place in the fleet: in a queue first, then on a worker.
//!
//! It exists exactly as long as the request wants something. Dropping it, wherever and in whatever
//! state, tells the fleet once. It never waits: the room for that one message was reserved when
//! the place was made.

use hearth_shared::ids::ModelName;
use tokio::sync::mpsc;

use super::Command;
use super::scheduler::Event;
use super::worker::TicketId;

#[derive(Debug)]
pub(super) struct Place {
    model: ModelName,
    ticket: TicketId,
    leave: Option<mpsc::OwnedPermit<Command>>,
}

impl Place {
    pub(super) fn new(
        model: ModelName,
        ticket: TicketId,
        leave: mpsc::OwnedPermit<Command>,
    ) -> Self {
        Self { model, ticket, leave: Some(leave) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            let event = Event::Leave { model: self.model.clone(), ticket: self.ticket };
            leave.send(Command::Event(event));
        }
    }
}
