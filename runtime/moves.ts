/**
 * How the steps that talk to other ranks are done: through the host, with any device and transport, or from device to
 * device, queued like a launch, where both can.
 */
import { bytesIn, newBytes, rangeOf, readBlock, rowsOf, writeBlock } from "./blocks.ts";
import { allgather } from "./collectives.ts";
import type { Device, DeviceBuffer, HostTensor, QueuedDevice } from "./device.ts";
import { isQueued } from "./device.ts";
import { elementsOf, fromNumbers, toNumbers } from "./dtype.ts";
import type { AllgatherStep, AllreduceStep, RecvStep, SendStep } from "./plan.ts";
import { type DeviceTransport, type Moving, type Transport, movesBuffers } from "./transport.ts";

/** Each resolves when what the rank's device does next may be queued. */
export interface Moves {
  send(step: SendStep): Promise<Moving>;
  recv(step: RecvStep): Promise<Moving>;
  allgather(step: AllgatherStep): Promise<Moving>;
  allreduce(step: AllreduceStep): Promise<Moving>;
}

/** A rank's buffer by its name. */
type Find = (name: string) => DeviceBuffer;

export function movesOf(device: Device, transport: Transport, find: Find): Moves {
  return isQueued(device) && movesBuffers(transport)
    ? new DeviceMoves(device, transport, find)
    : new HostMoves(device, transport, find);
}

const nothing: Moving = { done: Promise.resolve() };

class HostMoves implements Moves {
  private readonly device: Device;
  private readonly transport: Transport;
  private readonly find: Find;

  constructor(device: Device, transport: Transport, find: Find) {
    this.device = device;
    this.transport = transport;
    this.find = find;
  }

  async send({ buffer, to, tag, part }: SendStep): Promise<Moving> {
    const tensor = await readBlock(this.device, this.find(buffer), part);
    await this.transport.send(to, tag, bytesIn(tensor));
    return nothing;
  }

  async recv({ buffer, from, tag, part }: RecvStep): Promise<Moving> {
    const { dtype, shape } = this.find(buffer).spec;
    const [tensor, into] = newBytes(dtype, part ? rowsOf(shape, part).shape : shape);
    into.set(await this.transport.recv(from, tag, into.byteLength));
    await writeBlock(this.device, this.find(buffer), tensor, part);
    return nothing;
  }

  async allgather({ buffer, into: names, group, tag }: AllgatherStep): Promise<Moving> {
    const own = bytesIn(await this.device.download(this.find(buffer)));
    const all = await allgather(this.transport, group, tag, own);
    for (const [place, name] of names.entries()) {
      if (name === buffer) continue;
      const { dtype, shape } = this.find(name).spec;
      const [tensor, into] = newBytes(dtype, shape);
      into.set(all[place]!);
      await this.device.upload(this.find(name), tensor);
    }
    return nothing;
  }

  async allreduce({ buffer, group, tag }: AllreduceStep): Promise<Moving> {
    const own = await this.device.download(this.find(buffer));
    const all = await allgather(this.transport, group, tag, bytesIn(own));
    const parts = all.map((bytes) => {
      const [tensor, into] = newBytes(own.dtype, own.shape);
      into.set(bytes);
      return tensor;
    });
    await this.device.upload(this.find(buffer), sumOf(parts));
    return nothing;
  }
}

class DeviceMoves implements Moves {
  private readonly device: QueuedDevice;
  private readonly transport: DeviceTransport;
  private readonly find: Find;

  constructor(device: QueuedDevice, transport: DeviceTransport, find: Find) {
    this.device = device;
    this.transport = transport;
    this.find = find;
  }

  send({ buffer, to, part }: SendStep): Promise<Moving> {
    const move = { rank: to, range: rangeOf(this.find(buffer), part) };
    return this.transport.exchange(this.device.queues.transfer, [move], []);
  }

  recv({ buffer, from, part }: RecvStep): Promise<Moving> {
    const move = { rank: from, range: rangeOf(this.find(buffer), part) };
    return this.transport.exchange(this.device.queues.transfer, [], [move]);
  }

  allgather({ buffer, into, group }: AllgatherStep): Promise<Moving> {
    return this.gather(this.find(buffer), into.map(this.find), group);
  }

  private gather(
    own: DeviceBuffer,
    into: readonly DeviceBuffer[],
    group: readonly number[],
  ): Promise<Moving> {
    const others = group.flatMap((rank, place) =>
      rank === this.transport.rank ? [] : [{ rank, buffer: into[place]! }],
    );
    const sends = others.map(({ rank }) => ({ rank, range: rangeOf(own) }));
    const receives = others.map(({ rank, buffer }) => ({ rank, range: rangeOf(buffer) }));
    return this.transport.exchange(this.device.queues.transfer, sends, receives);
  }

  /** Summed on the host, in float64 as everywhere: these are parameters, not states. */
  async allreduce({ buffer, group }: AllreduceStep): Promise<Moving> {
    const { transfer, compute } = this.device.queues;
    const own = this.find(buffer);
    const { dtype, shape } = own.spec;
    const all = group.map((rank) =>
      rank === this.transport.rank ? own : transfer.alloc(dtype, shape, false),
    );
    const { done } = await this.gather(own, all, group);
    await done;
    const mark = transfer.mark();
    compute.waitFor(mark);
    mark.release();
    const parts: HostTensor[] = [];
    for (const part of all) parts.push(await this.device.download(part));
    await this.device.upload(own, sumOf(parts));
    for (const part of all) if (part !== own) compute.free(part);
    return nothing;
  }
}

function sumOf(parts: readonly HostTensor[]): HostTensor {
  const [{ dtype, shape }] = parts as [HostTensor];
  const sum = new Float64Array(elementsOf(shape));
  for (const { data } of parts) toNumbers(dtype, data).forEach((x, i) => (sum[i]! += x));
  return { dtype, shape, data: fromNumbers(dtype, sum) };
}
