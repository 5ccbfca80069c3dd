// Package queue is everything between NATS and the lanes: the connection, the fetching of updates, the
// heartbeats that keep them ours, the bodies held in memory, the acks; and, at the other end, the publishing.
//
// It is the first and the last station of an update's way: [Queue.Run] hands over each [Delivery] as it comes
// out of the stream, [Delivery.Message] gives its body when its turn has come, [Delivery.Ack] lets it leave the
// stream after it was settled. What happens in between is relay's business.
//
// # Order
//
// The server numbers what it delivers. A number that does not follow the last one means that something on its way
// here was lost or went to somebody else, and it would come again only after the ack wait, behind younger updates
// of the same Vorgang. So the queue reads what it has not seen from the stream first, at once and in stream order, and
// then hands over what was delivered. Taking over is the same: all that the consumer has delivered before was delivered
// elsewhere. What comes a second time is recognised by its sequence.
//
// The server's own way, resetting the consumer, is not taken: see [Queue.TakeOver].
//
// # Bounds
//
// Updates are handed over without limit (up to the consumer's MaxAckPending), their bodies are not: see [Config].
package queue
