// `ddpm train --distributed off` of a rank, into a folder of its own.
const [data, out, ...flags] = process.argv.slice(2)
const rank = process.env.OMPI_COMM_WORLD_RANK ?? process.env.PMI_RANK
process.argv.splice(2, process.argv.length, 'train', data, '--out', `${out}-${rank}`, '--distributed', 'off', ...flags)
require('../../lib/cli/main')
