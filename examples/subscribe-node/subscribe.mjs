// Prints Nightshift's events as JSON, one a line, with nothing of Nightshift but the descriptors of its messages.
//
//   node subscribe.mjs FindingOpened.security.critical.'>'
//   node subscribe.mjs FindingOpened.'>' --since 2026-03-01T06:00:00Z
//   node subscribe.mjs FindingOpened.'>' --durable my-service
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: { since: { type: "string" }, all: { type: "boolean" }, durable: { type: "string" }, count: { type: "string" } },
});
const filter = positionals[0] ?? "FindingOpened.>";

// The messages, from what docs/asyncapi.yaml calls the descriptor set.
const registry = createFileRegistry(
  fromBinary(FileDescriptorSetSchema, readFileSync(new URL("../../docs/events.binpb", import.meta.url))),
);

// An event's package is its stream: nightshift.finding.v1.FindingOpened is in NIGHTSHIFT_FINDING.
const event = [...registry].find((d) => d.kind === "message" && d.name === filter.split(".")[0] && d.file.name.endsWith("_event"));
if (!event) throw new Error(`there is no event ${filter}`);
const stream = "NIGHTSHIFT_" + event.typeName.split(".")[1].toUpperCase();

// nats://user:password@host:4222; with a user of its own everybody has an inbox of its own.
const url = new URL(process.env.NATS_URL ?? "nats://127.0.0.1:4222");
const nc = await connect({
  servers: url.host,
  user: decodeURIComponent(url.username) || undefined,
  pass: decodeURIComponent(url.password) || undefined,
  inboxPrefix: url.username ? `_INBOX_${url.username}` : undefined,
  maxReconnectAttempts: -1,
});

// Where it begins, when it is new: with the next event, with the first at or after a time, or with the oldest that is kept.
const begin = flags.all
  ? { deliver_policy: DeliverPolicy.All }
  : flags.since
    ? { deliver_policy: DeliverPolicy.StartTime, opt_start_time: new Date(flags.since).toISOString() }
    : { deliver_policy: DeliverPolicy.New };
const manager = await jetstreamManager(nc, { checkAPI: false });
const name = flags.durable ? `${flags.durable}-${event.name}` : `subscribe-${process.pid}-${Date.now()}`;
try {
  await manager.consumers.info(stream, name); // it goes on where it was
} catch {
  await manager.consumers.add(stream, {
    ...begin,
    name,
    durable_name: flags.durable ? name : undefined,
    filter_subject: `${event.file.proto.package}.${filter}`,
    ack_policy: AckPolicy.Explicit,
    inactive_threshold: (flags.durable ? 30 * 24 * 3600 : 60) * 1e9, // nanoseconds
  });
}
const consumer = await jetstream(nc, { checkAPI: false }).consumers.get(stream, name);

// One is asked for at a time: what is not handled is not held, and a slow handler is not flooded.
for (let left = Number(flags.count ?? Infinity); left > 0; ) {
  const m = await consumer.next({ expires: 30_000 });
  if (!m) continue; // nothing happened
  // At least once: ce-id is the same for every copy of one fact. Who must not act twice keeps it, where it acts.
  const id = m.headers?.get("ce-id");
  console.log(JSON.stringify({ id, time: m.time.toISOString(), ...toJson(event, fromBinary(event, m.data), { registry }) }));
  await m.ackAck(); // handled; without it the event comes again
  left--;
}
await nc.drain();
