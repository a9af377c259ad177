/** Helper files are bundled as text. */
declare module "*.ll" {
  const text: string;
  export default text;
}
declare module "*.wgsl" {
  const text: string;
  export default text;
}
declare module "*.py" {
  const text: string;
  export default text;
}
declare module "*.cuh" {
  const text: string;
  export default text;
}
