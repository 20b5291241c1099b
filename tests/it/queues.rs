//! Queues that somebody else declared, or has yet to.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use user_service::config::{Declare, Role};

use crate::support::{Services, TestApp, TestBroker, eventually, fresh_database};

/// Declares the request queue as a sibling did, starts the service beside it, and sees a push through.
async fn consumes_as_it_is(arguments: FieldTable) {
    let services = Services::from_env();
    let url = services.rabbitmq_url.clone();
    let database = fresh_database(&services).await;
    let name = format!("sibling.{}", uuid::Uuid::new_v4().simple());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments.clone()).await.unwrap();
    let app = TestApp::start_on(services, database, Role::Both, |config| config.broker.push_queue = name.clone()).await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    broker.request_push(&user.id, "as-it-is").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("as-it-is"));
    // Declared again by the sibling with the same arguments: had ours replaced them, this would be refused.
    channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_durable_request_queue_is_consumed_as_it_is() {
    Box::pin(consumes_as_it_is(FieldTable::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_queue_with_a_dead_letter_exchange_is_consumed_as_it_is() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-priority".into(), AMQPValue::LongInt(10));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("somebodys.dlx".into()));
    Box::pin(consumes_as_it_is(arguments)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_queue_of_another_is_consumed_as_it_is() {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    Box::pin(consumes_as_it_is(arguments)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_queues_of_ours_are_quorum_queues_out_of_reach_of_their_delivery_limit() {
    let app = TestApp::start().await;
    let broker = app.broker().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(1_000_000));
    for queue in [&broker.names.push_queue, &broker.names.deliver_queue] {
        let same = broker.channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), arguments.clone()).await;
        assert!(same.is_ok(), "{queue}: {same:?}");
    }
    for queue in [&broker.names.email_queue, &broker.names.failed_queue] {
        let same = broker.channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), FieldTable::default()).await;
        assert!(same.is_ok(), "{queue}: {same:?}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn under_wait_nothing_is_declared_and_consuming_begins_when_the_siblings_have() {
    let services = Services::from_env();
    let database = fresh_database(&services).await;
    let sibling = TestApp::start_with(Role::Worker, |_| {}).await;
    let names = sibling.config.broker.clone();
    let owner = TestBroker::connect(names.clone()).await;
    sibling.stop().await.unwrap();

    let mut broker = names.clone();
    broker.declare = Declare::Wait;
    let config = |config: &mut user_service::config::Config| config.broker = broker;
    let app = TestApp::launch(services, database, Role::Both, config).await;
    eventually("it has looked for the queues", async || app.app.status.parts()["consumer"].1 > 0).await;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let looked_up = owner.channel.queue_declare(names.push_queue.as_str().into(), options, FieldTable::default()).await;
    assert!(looked_up.is_err(), "the service declared a queue under RABBITMQ_DECLARE=wait");
    // The siblings come up: a service that creates stands in for all of them.
    let sibling = TestApp::start_with(Role::Worker, |config| config.broker = names).await;
    eventually("the waiting service consumes", async || app.app.status.broker_connected()).await;
    drop(sibling);
    app.stop().await.unwrap();
}
