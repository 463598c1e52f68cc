/** Which devices the tests use. DDPM_TEST_DEVICE=cuda, as in `npm run test:gpu`, is that one for all of them. */
import { Device, type DeviceName } from '../../lib/device'
import { native, type WeightFormat } from '../../lib/native'

const chosen = process.env.DDPM_TEST_DEVICE as DeviceName | undefined

/** Of tests that need one device, whichever it is. */
export const testDevice: DeviceName = chosen ?? 'cpu'

/** What is of the reference alone is tested where none is. */
export const isDeviceChosen = chosen !== undefined

/** A library may be there without a device that it can use. */
function opens(name: DeviceName): boolean {
  try {
    Device.open(name)
    return true
  } catch (error) {
    // Not on stdout, where children of tests print results.
    console.error(`Not tested: ${(error as Error).message}`)
    return false
  }
}

/** `reference` is what they are compared with; `npm run test:contracted` tests the other. */
const notByDefault: readonly DeviceName[] = ['reference', 'cuda-host-contracted']

/** Every backend that works. */
export const testedBackends: readonly DeviceName[] = chosen
  ? [chosen]
  : (native.backends() as DeviceName[]).filter((name) => !notByDefault.includes(name) && opens(name))

/** Those of them that take weights in a format. */
export const devicesOfFormat = (format: WeightFormat): DeviceName[] =>
  testedBackends.filter((name) => Device.open(name).info().weightFormats.includes(format))
