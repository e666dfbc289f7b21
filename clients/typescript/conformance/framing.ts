/** Messages one after the other, each preceded by its length in 4 bytes, big-endian. */
import type { Readable } from "node:stream";

const LENGTH_BYTES = 4;

/** Yield the messages of a stream until it ends. */
export async function* messagesOf(input: Readable): AsyncGenerator<Uint8Array> {
  let buffered = Buffer.alloc(0);
  for await (const chunk of input) {
    buffered = Buffer.concat([buffered, chunk as Buffer]);
    while (buffered.length >= LENGTH_BYTES) {
      const end = LENGTH_BYTES + buffered.readUInt32BE(0);
      if (buffered.length < end) {
        break;
      }
      yield buffered.subarray(LENGTH_BYTES, end);
      buffered = buffered.subarray(end);
    }
  }
  if (buffered.length > 0) {
    throw new Error("the input ends within a message");
  }
}

/** Put a message's length before it. */
export function framed(message: Uint8Array): Buffer {
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeUInt32BE(message.length);
  return Buffer.concat([length, message]);
}
