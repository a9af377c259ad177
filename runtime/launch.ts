/** Which rank a launcher made this process, from the variables it sets. */

export interface Launch {
  readonly rank: number;
  readonly ranks: number;
  /** Where rank 0 listens. */
  readonly host: string;
  readonly port: number;
}

const defaultPort = 29500;

/** Launchers, and how they call a process's rank and the number of ranks. */
const launchers = [
  { rank: "RANK", ranks: "WORLD_SIZE" },
  { rank: "OMPI_COMM_WORLD_RANK", ranks: "OMPI_COMM_WORLD_SIZE" },
  { rank: "SLURM_PROCID", ranks: "SLURM_NTASKS" },
] as const;

/**
 * The launch that `torchrun`, `mpirun` or `srun` describes, or null where none does. Rank 0 is at MASTER_ADDR, else at
 * SLURM_LAUNCH_NODE_IPADDR, else here; its port is MASTER_PORT, and one more where torchrun's own store has that one.
 * **Errors:** variables that are no whole numbers, or a rank that is not among the ranks.
 */
export function launchOf(env: Readonly<Record<string, string | undefined>>): Launch | null {
  const names = launchers.find(({ rank, ranks }) => env[rank] && env[ranks]);
  if (!names) return null;
  const [rank, ranks] = [number(env, names.rank, 0), number(env, names.ranks, 1)];
  if (rank >= ranks) throw new Error(`${names.rank} is ${rank}, of ${ranks} ranks`);
  const isStoreThere = env["TORCHELASTIC_USE_AGENT_STORE"] === "True";
  const port = env["MASTER_PORT"] ? number(env, "MASTER_PORT", 1) : defaultPort;
  return {
    rank,
    ranks,
    host: env["MASTER_ADDR"] || env["SLURM_LAUNCH_NODE_IPADDR"] || "127.0.0.1",
    port: port + (isStoreThere ? 1 : 0),
  };
}

/** Which of its host's ranks the launcher made this process, as far as it says; for the choice of a GPU. */
export function localRankOf(env: Readonly<Record<string, string | undefined>>): number | null {
  const names = ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"];
  const name = names.find((one) => env[one]);
  return name === undefined ? null : number(env, name, 0);
}

function number(
  env: Readonly<Record<string, string | undefined>>,
  name: string,
  low: number,
): number {
  const value = Number(env[name]);
  if (!Number.isSafeInteger(value) || value < low) {
    throw new Error(`${name} is \`${env[name]}\`, not a whole number of at least ${low}`);
  }
  return value;
}
