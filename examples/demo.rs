//! `make demo`: two users, three push requests, and what became of each.
//!
//! Speaks to a running service as an app does (HTTP) and to RabbitMQ as its siblings do: a gateway that asks for pushes,
//! and a push service that takes the deliveries. Messages of others are put back.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program to be watched, configured like the service")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, message::Delivery};
use serde_json::{Value, json};
use uuid::Uuid;

struct Names {
    exchange: String,
    deliver_queue: String,
    failed_queue: String,
    events_exchange: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let base = variable("BASE_URL", "http://localhost:8000");
    let names = Names {
        exchange: variable("RABBITMQ_EXCHANGE", "notifications.direct"),
        deliver_queue: variable("RABBITMQ_DELIVER_QUEUE", "push.deliver.queue"),
        failed_queue: variable("RABBITMQ_FAILED_QUEUE", "failed.queue"),
        events_exchange: variable("RABBITMQ_EVENTS_EXCHANGE", "user.events"),
    };
    let url = std::env::var("RABBITMQ_URL").context("RABBITMQ_URL is not set; use `make demo`")?;

    println!("1. Two users register at {base}; Bob opts out of push.");
    let http = reqwest::Client::new();
    let (ada, _) = register(&http, &base, "Ada").await?;
    let (bob, bob_token) = register(&http, &base, "Bob").await?;
    let opt_out = http.patch(format!("{base}/api/v1/users/preferences/")).bearer_auth(&bob_token).body(json!({"push": false}).to_string());
    let answer = opt_out.header("content-type", "application/json").send().await?;
    if !answer.status().is_success() {
        bail!("the opt-out was answered {}", answer.status());
    }
    println!("   Ada  {ada}\n   Bob  {bob}  push: off\n");

    println!("2. A gateway puts three push requests on {} with the routing key 'push'.", names.exchange);
    let connection =
        Connection::connect(&url, ConnectionProperties::default()).await.context("RabbitMQ does not answer; is `make run` running?")?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let skips = subscribe(&channel, &names.events_exchange).await?;
    let requests = [
        (
            "for Ada",
            json!({"notification_type": "push", "user_id": ada, "template_code": "WELCOME", "variables": {"link": "https://example.com"}})
                .to_string(),
        ),
        ("for Bob", json!({"notification_type": "push", "user_id": bob, "template_code": "WELCOME"}).to_string()),
        ("malformed", "{\"notification_type\": \"push\", \"user_id\": ".to_owned()),
    ];
    let mut ids = Vec::new();
    for (what, body) in &requests {
        let id = Uuid::now_v7().to_string();
        let properties = BasicProperties::default().with_message_id(id.as_str().into()).with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmed =
            channel.basic_publish(names.exchange.as_str().into(), "push".into(), options, body.as_bytes(), properties).await?.await?;
        if confirmed != lapin::Confirmation::Ack(None) {
            bail!("RabbitMQ did not take the request {what}");
        }
        println!("   {what:<10} {id}");
        ids.push(id);
    }

    println!("\n3. What became of them:");
    let delivered = take(&channel, &names.deliver_queue, |message| message_id(message) == ids[0]).await?;
    let skipped = take(&channel, &skips, |message| body(message)["notification_id"] == ids[1].as_str()).await?;
    let dead = take(&channel, &names.failed_queue, |message| message_id(message) == ids[2]).await?;
    let (delivered, skipped) = (body(&delivered), body(&skipped));
    println!("   {:<10} {:<10} {:<22} with", "request", "outcome", "where");
    println!(
        "   {:<10} {:<10} {:<22} push_token {}, name {}",
        "for Ada", "delivered", names.deliver_queue, delivered["push_token"], delivered["variables"]["name"]
    );
    println!("   {:<10} {:<10} {:<22} reason {}", "for Bob", "skipped", names.events_exchange, skipped["reason"]);
    println!(
        "   {:<10} {:<10} {:<22} reason \"{}\" ({})",
        "malformed",
        "dead",
        names.failed_queue,
        header(&dead, "x-dead-reason"),
        header(&dead, "x-dead-detail")
    );
    println!("\nThe whole delivery:\n{delivered:#}");
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// (user id, access token)
async fn register(http: &reqwest::Client, base: &str, name: &str) -> Result<(String, String)> {
    let email = format!("{}-{}@example.com", name.to_lowercase(), Uuid::new_v4().simple());
    let body = json!({"name": name, "email": email, "password": "TestPass123!", "push_token": format!("device-of-{}", email)});
    let request = http.post(format!("{base}/api/v1/users/")).header("content-type", "application/json").body(body.to_string());
    let answer = request.send().await.context("the service does not answer; start it with `make run`")?;
    let (status, answer) = (answer.status(), answer.json::<Value>().await?);
    match (answer["data"]["user"]["id"].as_str(), answer["data"]["access_token"].as_str()) {
        (Some(id), Some(token)) => Ok((id.to_owned(), token.to_owned())),
        _ => bail!("registering {name} was answered {status}: {answer}"),
    }
}

/// A queue of our own that hears of skips.
async fn subscribe(channel: &Channel, events_exchange: &str) -> Result<String> {
    let queue = channel.queue_declare("".into(), QueueDeclareOptions::exclusive(), FieldTable::default()).await?;
    let name = queue.name().as_str().to_owned();
    channel
        .queue_bind(name.as_str().into(), events_exchange.into(), "push.skipped".into(), QueueBindOptions::default(), FieldTable::default())
        .await?;
    Ok(name)
}

/// Takes the message that is meant off the queue and puts every other one back.
async fn take(channel: &Channel, queue: &str, meant: impl Fn(&Delivery) -> bool) -> Result<Delivery> {
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut others = Vec::new();
    let found = loop {
        match channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            Some(message) if meant(&message.delivery) => break Some(message.delivery),
            Some(message) => others.push(message.delivery),
            None if Instant::now() > deadline => break None,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    for other in others {
        other.acker.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?;
    }
    let found = found.with_context(|| format!("nothing came out on {queue} within 15 seconds"))?;
    found.acker.ack(BasicAckOptions::default()).await?;
    Ok(found)
}

fn message_id(message: &Delivery) -> String {
    message.properties.message_id().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default()
}

fn body(message: &Delivery) -> Value {
    serde_json::from_slice(&message.data).unwrap_or_default()
}

fn header(message: &Delivery, name: &str) -> String {
    let headers = message.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    }
}
