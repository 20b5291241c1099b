//! RabbitMQ: where it is, and what its exchanges, queues and routing keys are called.

use secrecy::SecretString;

use super::Role;
use super::reader::Reader;

#[derive(Clone, Debug)]
pub struct Broker {
    /// Absent for `--role api`, which never connects: it only writes down where its messages will go.
    pub url: Option<SecretString>,
    pub exchange: String,
    pub push_queue: String,
    pub push_key: String,
    pub deliver_queue: String,
    pub deliver_key: String,
    pub email_queue: String,
    pub email_key: String,
    pub dlx_exchange: String,
    pub failed_queue: String,
    pub failed_key: String,
    pub events_exchange: String,
    pub declare: Declare,
    pub queue_type: QueueType,
    /// Unacknowledged messages the broker may hand us.
    pub prefetch: u16,
}

/// What to do about a queue or exchange that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declare {
    Create,
    /// The siblings own their queues: wait until they exist.
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    Quorum,
    Classic,
}

impl Broker {
    pub(super) fn read(env: &mut Reader<'_>, role: Role) -> Self {
        let broker = Self {
            url: role.has_worker().then(|| env.url("RABBITMQ_URL", &["amqp", "amqps"], "amqp://user:password@host:5672/%2f")),
            exchange: env.text("RABBITMQ_EXCHANGE", "notifications.direct"),
            push_queue: env.text("RABBITMQ_PUSH_QUEUE", "push.queue"),
            push_key: env.text("RABBITMQ_PUSH_ROUTING_KEY", "push"),
            deliver_queue: env.text("RABBITMQ_DELIVER_QUEUE", "push.deliver.queue"),
            deliver_key: env.text("RABBITMQ_DELIVER_ROUTING_KEY", "push.deliver"),
            email_queue: env.text("RABBITMQ_EMAIL_QUEUE", "email.queue"),
            email_key: env.text("RABBITMQ_EMAIL_ROUTING_KEY", "email"),
            dlx_exchange: env.text("RABBITMQ_DLX_EXCHANGE", "notifications.dlx"),
            failed_queue: env.text("RABBITMQ_FAILED_QUEUE", "failed.queue"),
            failed_key: env.text("RABBITMQ_FAILED_ROUTING_KEY", "failed"),
            events_exchange: env.text("RABBITMQ_EVENTS_EXCHANGE", "user.events"),
            declare: env.choice("RABBITMQ_DECLARE", &[("create", Declare::Create), ("wait", Declare::Wait)], Declare::Create),
            queue_type: env.choice(
                "RABBITMQ_QUEUE_TYPE",
                &[("quorum", QueueType::Quorum), ("classic", QueueType::Classic)],
                QueueType::Quorum,
            ),
            prefetch: env.number("WORKER_PREFETCH", 256, 1..=10_000),
        };
        // A queue for two things has consumers who get what is not theirs, links among it; and what goes out would come in again.
        env.all_differ(&[
            ("RABBITMQ_PUSH_QUEUE", &broker.push_queue),
            ("RABBITMQ_DELIVER_QUEUE", &broker.deliver_queue),
            ("RABBITMQ_EMAIL_QUEUE", &broker.email_queue),
            ("RABBITMQ_FAILED_QUEUE", &broker.failed_queue),
        ]);
        env.all_differ(&[
            ("RABBITMQ_PUSH_ROUTING_KEY", &broker.push_key),
            ("RABBITMQ_DELIVER_ROUTING_KEY", &broker.deliver_key),
            ("RABBITMQ_EMAIL_ROUTING_KEY", &broker.email_key),
        ]);
        broker
    }
}
